"""Shards spread over worker processes, any of which may die without ending the sweep."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from geniex.config import register_configs, registered_configs
from geniex.errors import SweepError

_Shard = TypeVar("_Shard")
Task = Callable[[_Shard], str | None]
"""A function that solves and stores a shard; it returns the reason why it could not, or None."""
_DEATHS = 3
"""Workers that die in a row, each alone with one shard, before the fault is taken to be general."""


def run_shards(
    task: Task[_Shard], shards: Iterable[_Shard], workers: int, recycle: int | None
) -> Iterator[tuple[_Shard, str | None]]:
    """Yields each shard when it is done, with None or the reason why it failed.

    A worker's death breaks the pool. The shards that were under way are then tried again, each alone in a new
    worker; a shard that kills its worker again has failed.

    Args:
        task: the picklable function that solves a shard; an ``OSError`` that it raises ends the sweep.
        shards: the picklable arguments of the task.
        workers: number of processes.
        recycle: shards after which a worker is replaced, for solvers that leak memory; None means never.

    Raises:
        SweepError: workers die whatever shard they are given.
    """
    queue, deaths = deque(shards), 0
    while queue:
        suspects: list[_Shard] = []
        yield from _run_pool(task, queue, workers, recycle, suspects)
        for shard in suspects:
            failure = _run_alone(task, shard)
            deaths = deaths + 1 if failure == _DEAD else 0
            if deaths == _DEATHS:
                raise SweepError(
                    "worker processes keep dying: is memory short (give fewer --workers)? A script that calls"
                    " run_sweep needs its `if __name__ == '__main__':` guard"
                )
            yield shard, failure


_DEAD = "its worker process died; was it killed, or is memory short?"


def _run_pool(
    task: Task[_Shard], queue: deque[_Shard], workers: int, recycle: int | None, suspects: list[_Shard]
) -> Iterator[tuple[_Shard, str | None]]:
    """Work on ``queue`` until it is empty, the workers are due to be replaced, or the pool breaks.

    If the pool breaks, the shards that were under way are appended to ``suspects``.
    """
    left = len(queue) if recycle is None else recycle * workers
    with _pool(min(workers, len(queue))) as pool:
        # Each worker is handed one shard at a time, so that a broken pool has few suspects.
        running: dict[Future[str | None], _Shard] = {}
        while not suspects:
            while queue and left and len(running) < workers:
                shard = queue.popleft()
                left -= 1
                try:
                    running[pool.submit(task, shard)] = shard
                except BrokenProcessPool:
                    suspects.append(shard)
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                shard = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(shard)
                else:
                    yield shard, future.result()
        suspects.extend(running.values())


def _run_alone(task: Task[_Shard], shard: _Shard) -> str | None:
    with _pool(1) as pool:
        try:
            return pool.submit(task, shard).result()
        except BrokenProcessPool:
            return _DEAD


def _pool(workers: int) -> ProcessPoolExecutor:
    # Workers are spawned, because torch's threads and HDF5's state do not survive a fork.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(registered_configs(),))


def _start_worker(registered: tuple[tuple[str, str], ...]) -> None:
    register_configs(registered)
    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group: a worker ends quietly, and the parent reports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    # A worker whose parent was killed would otherwise wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
