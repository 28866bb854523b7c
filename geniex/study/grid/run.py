"""Studies from configuration to tables, in processes or on Ray; a run goes on from an earlier run's results."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geniex.config import check_positive_int
from geniex.errors import InputError
from geniex.files import parse_json, write_atomically
from geniex.jobs.pool import run_shards
from geniex.jobs.ray import run_on_ray
from geniex.study.grid.job import Job, run_job
from geniex.study.grid.plan import planned
from geniex.study.grid.spec import StudySpec
from geniex.study.grid.table import Results, Study, tabulated
from geniex.study.logits import digest
from geniex.sweep.run import EXECUTORS, Executor

Progress = Callable[[int, int], None]
"""A function called with the number of jobs done and of all jobs; first with the jobs that an earlier run did."""

_FORMAT = "geniex-study-result-3"


def run_study(
    config: StudySpec | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    executor: Executor = "local",
    device: str = "cpu",
    data_root: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Study:
    """The accuracy and the costs of networks on crossbars at every point of a grid of settings.

    All grid points are checked before the first one runs. Each result is kept in its own file as soon as it is known,
    so that a killed study can go on. The tables, apart from the seconds, do not depend on the number of workers, the
    order of the jobs or kills. A failed job is recorded with its error and the others go on; the next run tries it
    again.

    Args:
        config: a mapping, the path of a YAML file, the name of a shipped one, or a ``StudySpec``.
        out: folder for the results, the tables (``table.csv``, ``table.parquet``, ``summary.csv``), the report and its
            figures; None keeps nothing.
        workers: local processes of one thread each; 1 or None works in this process. On Ray, jobs that run at a time;
            None means two per processor of the cluster. With several local processes a script needs the
            ``if __name__ == "__main__":`` guard.
        executor: "local" for processes, or "ray" for the cluster at ``RAY_ADDRESS``, else one on this machine.
        device: where each job computes, such as "cpu" or "cuda".
        data_root: folder of the image sets, if they are not in the default one.
        changes: settings by dotted names that override the configuration's in all parts.
        progress: called as jobs are done.

    Raises:
        InputError: the configuration is invalid (the message names the field and the allowed values), or a network or
            a data set cannot be loaded.
        MissingDependencyError: Ray is missing.
        SweepError: workers keep dying, or there is no cluster.
    """
    if workers is not None:
        check_positive_int("workers", workers)
    if executor not in EXECUTORS:
        raise InputError("executor", repr(executor), f"it must be one of {', '.join(EXECUTORS)}")
    plan = planned(StudySpec.of(config, changes), device=device, data_root=data_root)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if out is None else out)
        kept = folder / "kept"
        kept.mkdir(parents=True, exist_ok=True)
        found, errors = _run(plan.jobs, kept, workers, executor, progress or (lambda done, whole: None))
        study = tabulated(plan, Results(found, errors), device)
        if out is not None:
            from geniex.study.grid.report import write_study

            study = dataclasses.replace(study, missing=tuple(write_study(study, folder)))
    return study


def kept_result(folder: Path, job: Job) -> dict[str, Any] | None:
    """The result of a job that is kept in ``folder``; None if its file is missing, incomplete or changed."""
    try:
        held = parse_json(_path(folder, job).read_bytes())
        same = held["format"] == _FORMAT and held["key"] == job.key and held["sha256"] == digest(held["result"])
        return held["result"] if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class _Item:
    """A job and the folder of its result."""

    job: Job
    folder: Path


def _run(
    jobs: list[Job], folder: Path, workers: int | None, executor: Executor, progress: Progress
) -> tuple[dict[str, Any], dict[str, str]]:
    """The results of jobs, and the errors of jobs without a result, both by key."""
    left = [_Item(job, folder) for job in jobs if kept_result(folder, job) is None]
    errors: dict[str, str] = {}
    done = len(jobs) - len(left)
    progress(done, len(jobs))
    for item, failure in _results(left, workers, executor):
        if failure is not None:
            errors[item.job.key] = failure
        done += 1
        progress(done, len(jobs))
    found = {job.key: kept_result(folder, job) for job in jobs if job.key not in errors}
    return {key: result for key, result in found.items() if result is not None}, errors


def _results(items: list[_Item], workers: int | None, executor: Executor) -> Iterator[tuple[_Item, str | None]]:
    if not items:
        return
    if executor == "ray":
        gpus = 1.0 if items[0].job.device.startswith("cuda") else 0.0
        for k, answer in run_on_ray(run_job, [(item.job,) for item in items], workers, gpus=gpus):
            yield items[k], _stored(items[k], answer)
    elif workers in (None, 1):
        yield from ((item, _work(item)) for item in items)
    else:
        yield from run_shards(_work, items, workers or 1, None)


def _work(item: _Item) -> str | None:
    """Do a job unless another process has done it in the meantime; return the reason for a missing result, or None."""
    if kept_result(item.folder, item.job) is not None:
        return None
    return _stored(item, run_job(item.job))


def _stored(item: _Item, answer: dict[str, Any] | str) -> str | None:
    if isinstance(answer, str):
        return answer
    held = {"format": _FORMAT, "key": item.job.key, "sha256": digest(answer), "result": answer}
    write_atomically(_path(item.folder, item.job), (json.dumps(held) + "\n").encode())
    return None


def _path(folder: Path, job: Job) -> Path:
    return folder / f"{job.name}-{job.key[:24]}.json"
