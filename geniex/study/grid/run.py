"""Studies from configuration to tables, in processes or on Ray; a run continues from an earlier run's results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from geniex.jobs import Executor, Failure, ResultStore, check_workers, run_jobs
from geniex.study.grid.job import Job, run_job
from geniex.study.grid.plan import plan_study
from geniex.study.grid.spec import StudySpec
from geniex.study.grid.table import Results, Study, tabulate

Progress = Callable[[int, int], None]
"""A function called with the number of jobs done and of all jobs; first with the jobs that an earlier run did."""

_FORM = "geniex-study-result-4"
"""Meaning and version of the kept results."""


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
        JobError: workers keep dying, there is no cluster, or the disk is full.
    """
    check_workers(workers, executor)
    plan = plan_study(StudySpec.of(config, changes), device=device, data_root=data_root)
    store = ResultStore(None if out is None else Path(out) / "kept", _FORM)
    found, errors = _run(plan.jobs, store, workers, executor, progress or (lambda done, whole: None))
    study = tabulate(plan, Results(found, errors), device)
    if out is not None:
        from geniex.study.grid.report import write_study

        study = dataclasses.replace(study, missing=tuple(write_study(study, Path(out))))
    return study


def _run(
    jobs: list[Job], store: ResultStore, workers: int | None, executor: Executor, progress: Progress
) -> tuple[dict[str, Any], dict[str, str]]:
    """The results of jobs, and the errors of jobs without a result, both by key."""
    held = {job.key: store.load(job.name, job.key) for job in jobs}
    found = {key: result for key, result in held.items() if result is not None}
    left, errors = [job for job in jobs if job.key not in found], dict[str, str]()
    progress(len(found), len(jobs))
    gpus = 1.0 if jobs and jobs[0].device.startswith("cuda") else 0.0
    for job, answer in run_jobs(run_job, left, workers=workers, executor=executor, gpus=gpus):
        if isinstance(answer, dict):
            store.keep(job.name, job.key, answer)
            found[job.key] = answer
        else:
            errors[job.key] = answer.reason if isinstance(answer, Failure) else answer
        progress(len(found) + len(errors), len(jobs))
    return found, errors
