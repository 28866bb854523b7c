"""The peak memory of some work, measured in a fresh process."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from geniex.errors import GeniexError


class MemoryMeter:
    """A context that runs pieces of work, each in a fresh process."""

    def __init__(self) -> None:
        # A fork server has torch loaded, so that fresh processes need not import it; Windows has no fork server.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload([__name__, "geniex.bench.circuits"])
        self._pool = ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)

    def __enter__(self) -> MemoryMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def growth(self, prepare: Callable[..., Callable[[], object]], *arguments: object) -> int | None:
        """The largest growth of the process, in bytes, during ``prepare(*arguments)()``; ``prepare`` does not count.

        It is None if unknown.
        """
        try:
            return self._pool.submit(_growth, prepare, arguments).result()
        except BrokenProcessPool:
            return None


def _growth(prepare: Callable[..., Callable[[], object]], arguments: tuple[object, ...]) -> int | None:
    try:
        import resource
    except ImportError:
        return None
    torch.set_num_threads(1)
    unit = 1 if sys.platform == "darwin" else 1024
    try:
        act = prepare(*arguments)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        act()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    except GeniexError:
        return None
