"""A sweep from configuration to finished file, resuming whatever an earlier run left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from geniex.config import check_positive_int
from geniex.errors import FileFormatError, InputError, SweepError
from geniex.sweep import layout
from geniex.sweep.config import SweepConfig
from geniex.sweep.file import SweepFile
from geniex.sweep.pool import run_shards
from geniex.sweep.shards import ShardDirectory
from geniex.sweep.solving import solve_tiles

_RECYCLE = {"native": None, "ngspice": 1}
"""Shards after which a worker is replaced: ngspice leaks memory with every solve."""
_LISTED = 5
"""Failed shards that an error message spells out."""


class SweepObserver:
    """What a sweep tells about itself while it runs; override what is of interest."""

    def started(self, tiles: int, resumed: int) -> None:
        """``tiles`` in all, of which ``resumed`` were found finished."""

    def solved(self, tiles: int) -> None:
        """So many more tiles are solved and durable."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


def run_sweep(
    config: SweepConfig, out: str | Path, workers: int | None = None, observer: SweepObserver | None = None
) -> Path:
    """The path of the finished HDF5 file ``out``, which ``geniex.sweep.SweepFile`` reads.

    Finished shards live in ``<out>.shards`` until they are merged. Run again after any interruption, with the
    same configuration, it solves only what is missing; the file's datasets and attributes are those of an
    uninterrupted run, for any number of workers. Worker processes are spawned, so a script needs the
    ``if __name__ == "__main__":`` guard.

    Args:
        config: what to solve.
        out: the file to make; its directory must exist.
        workers: processes; None means one a processor. One native worker runs in this process.
        observer: hears of the progress.

    Raises:
        InputError: ``out`` or ``workers`` cannot be.
        SweepError: tiles without a solution, a full disk, another sweep at work on ``out`` or in its place.
        MissingDependencyError: the engine is ngspice, which is not there.
    """
    out, observer = Path(out), observer or SweepObserver()
    workers = os.cpu_count() or 1 if workers is None else workers
    check_positive_int("workers", workers)
    if not out.parent.is_dir() or out.is_dir():
        raise InputError("out", out, "it must be a file's path in a directory that exists")
    if out.exists():
        _check_finished(config, out)
    shards = ShardDirectory.beside(out, config, layout.attributes(config))
    if out.exists() and not shards.path.exists():
        return _nothing_to_do(config, out, observer)
    try:
        with shards.locked():
            shards.claim()
            if out.exists():
                shards.remove()
                return _nothing_to_do(config, out, observer)
            _solve(shards, workers, observer)
            shards.merge(out)
    except OSError as error:
        kept = f"finished tiles are kept in {shards.path}, run the same command to go on"
        way_out = kept if shards.path.exists() else "give another --out"
        raise SweepError(f"{error.filename or shards.path}: {error.strerror or error}; {way_out}") from error
    return out


def _solve(shards: ShardDirectory, workers: int, observer: SweepObserver) -> None:
    config = shards.config
    todo = list(_unfinished(shards, observer))
    sizes = {shard: len(range(*config.shard_range(shard))) for shard in todo}
    observer.started(config.tiles, config.tiles - sum(sizes.values()))
    task = partial(_solve_shard, shards)
    if workers == 1 and config.engine == "native":
        results: Iterator[tuple[int, str | None]] = ((shard, task(shard)) for shard in todo)
    else:
        results = run_shards(task, todo, workers, _RECYCLE[config.engine])
    failures = {}
    for shard, failure in results:
        if failure is None:
            observer.solved(sizes[shard])
        else:
            failures[shard] = failure
    if failures:
        raise SweepError(_explain(config, failures) + f"; all other tiles are kept in {shards.path}")


def _solve_shard(shards: ShardDirectory, shard: int) -> str | None:
    """Solve and store one shard; returns why it has no solution, or None."""
    try:
        data = solve_tiles(shards.config, *shards.config.shard_range(shard))
    except SweepError as error:
        return str(error)
    shards.store(shard, data)
    return None


def _unfinished(shards: ShardDirectory, observer: SweepObserver) -> Iterator[int]:
    for shard in range(shards.config.shards):
        try:
            if not shards.finished(shard):
                yield shard
        except FileFormatError as error:
            observer.note(f"shard {shard} is solved again: {error}")
            yield shard


def _explain(config: SweepConfig, failures: dict[int, str]) -> str:
    listed = []
    for shard in sorted(failures)[:_LISTED]:
        start, stop = config.shard_range(shard)
        listed.append(f"tiles {start} to {stop - 1}: {failures[shard]}")
    more = f"; and {len(failures) - _LISTED} more" if len(failures) > _LISTED else ""
    return f"{len(failures)} of {config.shards} shards have no solution: " + "; ".join(listed) + more


def _check_finished(config: SweepConfig, out: Path) -> None:
    if SweepFile(out).config != config:
        raise SweepError(f"{out}: it holds a sweep of another configuration; give another --out, or delete it")


def _nothing_to_do(config: SweepConfig, out: Path, observer: SweepObserver) -> Path:
    observer.started(config.tiles, config.tiles)
    observer.note(f"{out} is finished already, nothing is solved")
    return out
