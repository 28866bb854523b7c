"""Jobs spread over worker processes, any of which may die without ending the run."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from geniex.errors import InputError, JobError
from geniex.jobs.worker import Failure, Registered, collect_registered, prepare_worker

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_DEATHS = 3
"""Number of successive workers that die on a single job before the fault is taken to be general."""
_DEAD = Failure("its worker process died: was it killed, or is memory short?")


def run_in_processes(
    task: Callable[[_Item], _Answer], items: Iterable[_Item], workers: int, recycle: int | None
) -> Iterator[tuple[_Item, _Answer | Failure]]:
    """Each item with its answer, as ``geniex.jobs.run_jobs`` gives them; this always starts processes.

    A worker's death breaks the pool. The jobs in progress are then tried again, each by itself in a new worker; a
    job that kills its worker again has failed.

    Raises:
        InputError: the task cannot be pickled.
        JobError: workers die whatever job they are given.
    """
    pickled, queue, deaths, more = pickle_task(task, workers), iter(items), 0, True
    while more:
        suspects: list[_Item] = []
        more = yield from _run_pool(pickled, queue, workers, recycle, suspects)
        for item in suspects:
            answer = _run_alone(pickled, item)
            deaths = deaths + 1 if answer is _DEAD else 0
            if deaths == _DEATHS:
                raise JobError(
                    "worker processes keep dying: is memory short (give fewer workers)? A script that starts worker"
                    " processes needs its `if __name__ == '__main__':` guard"
                )
            yield item, answer


def pickle_task(task: object, workers: int | None) -> bytes:
    """The pickled task; raises ``InputError`` for ``workers`` if it cannot be sent to another process."""
    try:
        return pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        allowed = (
            f"the work cannot be sent to another process ({error}): leave workers out, or define the classes and"
            " functions that it uses at the top level of a module"
        )
        raise InputError("workers", workers, allowed) from None


def _run_pool(
    task: bytes, queue: Iterator[_Item], workers: int, recycle: int | None, suspects: list[_Item]
) -> Generator[tuple[_Item, Any], None, bool]:
    """Work on ``queue`` until it is empty, the workers are due to be replaced, or the pool breaks.

    If the pool breaks, the items that were under way are appended to ``suspects``. The return value tells whether
    items may be left.
    """
    left, more = -1 if recycle is None else recycle * workers, True
    with _pool(task, workers) as pool:
        # Each worker is handed one item at a time, so that a broken pool has few suspects.
        running: dict[Future[bytes], _Item] = {}
        while not suspects:
            while more and left and len(running) < workers and not suspects:
                try:
                    item = next(queue)
                except StopIteration:
                    more = False
                    break
                left -= 1
                try:
                    running[pool.submit(_work, pickle.dumps(item))] = item
                except BrokenProcessPool:
                    suspects.append(item)
            if not running:
                return more
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                item = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(item)
                else:
                    yield item, pickle.loads(future.result())
        suspects.extend(running.values())
    return more


def _run_alone(task: bytes, item: Any) -> Any:
    with _pool(task, 1) as pool:
        try:
            return pickle.loads(pool.submit(_work, pickle.dumps(item)).result())
        except BrokenProcessPool:
            return _DEAD


def _pool(task: bytes, workers: int) -> ProcessPoolExecutor:
    # Workers are spawned, because torch's threads and HDF5's state do not survive a fork.
    context = multiprocessing.get_context("spawn")
    start = (task, collect_registered())
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=start)


_pickled: bytes | None = None
"""The task of this worker process, until its first job."""
_task: Callable[[Any], Any] | None = None
"""The task of this worker process, from its first job on."""


def _start_worker(task: bytes, registered: Registered) -> None:
    global _pickled
    _pickled = task
    prepare_worker(registered)
    # Ctrl-C reaches the whole process group: a worker ends quietly, and the parent reports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _work(item: bytes) -> bytes:
    """The pickled answer for one item.

    Items and answers cross as plain bytes: a pool would pass tensors through shared memory, which is lost if the
    worker dies before the answer has been read, and which is small in a container.
    """
    global _task, _pickled
    if _task is None:
        # The first job, not the worker's start, loads the task, so that an error of it is raised as what it is.
        assert _pickled is not None
        _task, _pickled = pickle.loads(_pickled), None
    return pickle.dumps(_task(pickle.loads(item)))


def _die_with_parent() -> None:
    # A worker whose parent was killed would otherwise wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
