"""The run of a sweep from its configuration to the finished file; it resumes what an earlier run left unfinished."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from geniex.errors import FileFormatError, InputError, SweepError
from geniex.jobs import Executor, Failure, check_workers, run_jobs
from geniex.sweep import layout
from geniex.sweep.config import SweepConfig
from geniex.sweep.file import SweepFile
from geniex.sweep.shards import ShardDirectory
from geniex.sweep.solving import TileData, solve_tiles

_RECYCLE = {"native": None, "ngspice": 1}
"""Shards after which a worker is replaced: ngspice leaks memory with every solve."""
_LISTED = 5
"""Failed shards that an error message spells out."""


class SweepObserver:
    """A listener that a sweep informs of its progress; override the methods of interest."""

    def started(self, tiles: int, resumed: int) -> None:
        """The sweep has started: it has ``tiles`` tiles in all, of which ``resumed`` were already finished."""

    def solved(self, tiles: int) -> None:
        """The sweep has solved ``tiles`` more tiles and made them durable."""

    def note(self, text: str) -> None:
        """The sweep has something to tell the user: ``text``."""


def run_sweep(
    config: SweepConfig,
    out: str | Path,
    workers: int | None = None,
    observer: SweepObserver | None = None,
    executor: Executor = "local",
) -> Path:
    """Solve a sweep; returns the path of the finished HDF5 file ``out``, which ``geniex.sweep.SweepFile`` reads.

    Finished shards are kept in ``<out>.shards`` until they are merged. A call with the same configuration after any
    interruption solves only what is missing. The file's datasets and attributes are those of an uninterrupted run,
    for any number of workers. Worker processes are spawned, so a script needs the ``if __name__ == "__main__":``
    guard.

    Args:
        config: the sweep to solve.
        out: the file to make; its directory must exist.
        workers: number of processes; None means one per processor. A single worker of the native engine runs in this
            process. On Ray it is the number of shards under way; None means two for each processor of the cluster.
        observer: the listener that is told of the progress.
        executor: where the solver runs: in "local" processes, or on a "ray" cluster, see ``geniex.jobs.run_jobs``.

    Raises:
        InputError: ``out``, ``workers`` or ``executor`` is not allowed.
        SweepError: tiles have no solution, the disk is full, or another sweep works on ``out`` or holds its place.
        JobError: worker processes keep dying, or there is no Ray cluster.
        MissingDependencyError: the engine is ngspice or the executor is Ray, and it is not installed.
    """
    out = Path(out)
    for why in run_sweeps({out: config}, workers, observer, executor).values():
        raise SweepError(why)
    return out


def run_sweeps(
    plans: Mapping[Path, SweepConfig],
    workers: int | None = None,
    observer: SweepObserver | None = None,
    executor: Executor = "local",
) -> dict[Path, str]:
    """Solve several sweeps of one engine with shared workers; returns the reason for each output that is not finished.

    Arguments and errors are otherwise those of ``run_sweep``.
    """
    observer = observer or SweepObserver()
    check_workers(workers, executor)
    for out, config in plans.items():
        _check_output(out, config)
    directories = {out: ShardDirectory.beside(out, config, layout.attributes(config)) for out, config in plans.items()}
    open_ones = {out: shards for out, shards in directories.items() if not out.exists() or shards.path.exists()}
    total = sum(config.tiles for config in plans.values())
    try:
        with ExitStack() as locks:
            jobs = [job for out, shards in open_ones.items() if (job := _claimed(out, shards, locks, observer))]
            observer.started(total, total - sum(job.missing for job in jobs))
            if not jobs:
                what = str(next(iter(plans))) if len(plans) == 1 else "everything"
                observer.note(f"{what} is finished already, nothing is solved")
            return _solve(jobs, workers, observer, executor)
    except OSError as error:
        kept = [shards.path for shards in open_ones.values() if shards.path.exists()]
        where = error.filename or next(iter(directories.values())).path
        way_out = "give another --out"
        if kept:
            place = kept[0] if len(kept) == 1 else kept[0].parent / "*.shards"
            way_out = f"finished tiles are kept in {place}, run the same command to go on"
        raise SweepError(f"{where}: {error.strerror or error}; {way_out}") from error


@dataclass
class _Job:
    """An output that is not finished."""

    out: Path
    shards: ShardDirectory
    left: set[int]
    """Shards that are still to be solved."""
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        return sum(len(range(*self.shards.config.shard_range(shard))) for shard in self.left)


def _claimed(out: Path, shards: ShardDirectory, locks: ExitStack, observer: SweepObserver) -> _Job | None:
    """The job of ``out``, with its shard directory locked; None if the output turns out to be finished."""
    locks.enter_context(shards.locked())
    shards.claim()
    if out.exists():
        shards.remove()
        return None
    return _Job(out, shards, set(_unfinished(shards, observer)))


def _solve(jobs: list[_Job], workers: int | None, observer: SweepObserver, executor: Executor) -> dict[Path, str]:
    for job in jobs:
        if not job.left:
            job.shards.merge(job.out)
    todo = [_Item(k, job.shards, shard) for k, job in enumerate(jobs) for shard in sorted(job.left)]
    for item, failure in _results(todo, workers, executor):
        job, size = jobs[item.job], len(range(*item.shards.config.shard_range(item.shard)))
        job.left.remove(item.shard)
        if failure is None:
            observer.solved(size)
        else:
            job.failures[item.shard] = failure
        if not job.left and not job.failures:
            job.shards.merge(job.out)
    return {job.out: _explain(job) for job in jobs if job.failures}


class _Item(NamedTuple):
    """A shard of a job."""

    job: int
    shards: ShardDirectory
    shard: int

    def store(self, data: TileData) -> None:
        """Write the solved tiles durably; raises ``OSError`` where the disk does not take them."""
        self.shards.store(self.shard, data)


def _results(todo: list[_Item], workers: int | None, executor: Executor) -> Iterator[tuple[_Item, str | None]]:
    """Yields each shard when it is stored, with None, or the reason why it could not be."""
    if not todo:
        return
    # Shards are large: a local worker writes its own. Ray's nodes need no common file system, so this process writes.
    here = executor == "local"
    workers = os.cpu_count() or 1 if workers is None and here else workers
    recycle = _RECYCLE[todo[0].shards.config.engine]
    task: Callable[[_Item], TileData | Failure | None] = _solve_and_store if here else _solve_shard
    for item, answer in run_jobs(task, todo, workers=workers, executor=executor, recycle=recycle):
        if isinstance(answer, TileData):
            item.store(answer)
        yield item, answer.reason if isinstance(answer, Failure) else None


def _solve_and_store(item: _Item) -> Failure | None:
    answer = _solve_shard(item)
    if isinstance(answer, Failure):
        return answer
    item.store(answer)
    return None


def _solve_shard(item: _Item) -> TileData | Failure:
    config = item.shards.config
    try:
        return solve_tiles(config, *config.shard_range(item.shard))
    except SweepError as error:
        return Failure(str(error))


def _unfinished(shards: ShardDirectory, observer: SweepObserver) -> Iterator[int]:
    for shard in range(shards.config.shards):
        try:
            if not shards.finished(shard):
                yield shard
        except FileFormatError as error:
            observer.note(f"shard {shard} is solved again: {error}")
            yield shard


def _explain(job: _Job) -> str:
    config, listed = job.shards.config, []
    for shard in sorted(job.failures)[:_LISTED]:
        start, stop = config.shard_range(shard)
        listed.append(f"tiles {start} to {stop - 1}: {job.failures[shard]}")
    more = f"; and {len(job.failures) - _LISTED} more" if len(job.failures) > _LISTED else ""
    why = f"{len(job.failures)} of {config.shards} shards have no solution: " + "; ".join(listed) + more
    return f"{why}; all other tiles are kept in {job.shards.path}"


def _check_output(out: Path, config: SweepConfig) -> None:
    if not out.parent.is_dir() or out.is_dir():
        raise InputError("out", out, "it must be a file's path in a directory that exists")
    if out.exists() and SweepFile(out).config != config:
        raise SweepError(f"{out}: it holds a sweep of another configuration; give another --out, or delete it")
