"""The one way to run many jobs: in this process, in worker processes, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeVar, get_args

from geniex.config import check_positive_int
from geniex.errors import InputError
from geniex.jobs.pool import run_in_processes
from geniex.jobs.ray import run_on_ray
from geniex.jobs.worker import Failure
from geniex.threads import one_thread

Executor = Literal["local", "ray"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def run_jobs(
    task: Callable[[_Item], _Answer],
    items: Iterable[_Item],
    *,
    workers: int | None = None,
    executor: Executor = "local",
    recycle: int | None = None,
    gpus: float = 0.0,
) -> Iterator[tuple[_Item, _Answer | Failure]]:
    """Each item with ``task(item)`` as soon as it is known, or with the ``Failure`` of a worker that died on it.

    Every worker receives the task once and the items one at a time. It knows what users registered in this process
    (configurations, layers, layouts, emulators, variations), and it computes on one thread. The death of a worker costs
    only the items that were under way; they are tried again. An exception that the task raises ends the run and is
    raised here. A task that does not want this returns a ``Failure`` of its own.

    Answers should be small, so that the caller can store them: on Ray only the caller's process is sure to see its
    files. A local task may also store a large result itself and return what the caller has to know of it.

    Args:
        task: the function that does one job; for worker processes it must be picklable.
        items: the arguments of the jobs; they are taken one by one as workers become free.
        workers: local processes; 1 works in this process on one thread, and None in this process on torch's threads.
            On Ray it is the number of jobs under way; None means two for each processor of the cluster.
        executor: "local", or "ray" for the cluster at ``RAY_ADDRESS``, else one that runs on this machine, else one
            that is started here. All nodes need this version of geniex, but no common file system.
        recycle: jobs after which a worker is replaced, for tasks that leak memory; None means never. With a number
            even a single local worker is a separate process.
        gpus: the share of a GPU that each job takes on Ray.

    Raises:
        InputError: ``workers`` or ``executor`` is not allowed, or the task cannot be sent to another process.
        MissingDependencyError: Ray is not installed.
        JobError: worker processes keep dying, or there is no cluster at ``RAY_ADDRESS``.
    """
    check_workers(workers, executor)
    if executor == "ray":
        return run_on_ray(task, items, workers, recycle, gpus)
    if workers in (None, 1) and recycle is None:
        return _run_here(task, items, workers)
    return run_in_processes(task, items, workers or 1, recycle)


def check_workers(workers: int | None, executor: Executor) -> None:
    """Raise ``InputError`` unless ``run_jobs`` takes these ``workers`` and this ``executor``."""
    if workers is not None:
        check_positive_int("workers", workers)
    if executor not in EXECUTORS:
        raise InputError("executor", repr(executor), f"it must be one of {', '.join(EXECUTORS)}")


def use_job_threads(workers: int | None, executor: Executor = "local") -> AbstractContextManager[None]:
    """A context that computes on as many threads as the jobs of ``run_jobs`` do.

    The order in which threads add changes the last bits. Work that a caller shares with its jobs belongs into this
    context, so that it gives the same bits in every process.
    """
    return nullcontext() if workers is None and executor == "local" else one_thread()


def _run_here(
    task: Callable[[_Item], _Answer], items: Iterable[_Item], workers: int | None
) -> Iterator[tuple[_Item, _Answer | Failure]]:
    for item in items:
        with use_job_threads(workers):
            answer = task(item)
        yield item, answer
