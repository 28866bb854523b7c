"""The peak memory of some work, measured in a fresh process."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from geniex.bench.cases import Case, Problem
from geniex.bench.rivals import Rival
from geniex.errors import GeniexError


class MemoryMeter:
    """A context that runs pieces of work, each in a fresh process."""

    def __init__(self) -> None:
        # A fork server has torch loaded, so that fresh processes need not import it; Windows has no fork server.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload([__name__])
        self._pool = ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)

    def __enter__(self) -> MemoryMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def peak(self, rival: Rival, case: Case, vectors: int, seed: int) -> int | None:
        """The largest growth of the process, in bytes, while ``rival`` solves ``case``; None if unknown."""
        return self.growth(_solution, rival, case, vectors, seed)

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
    import torch

    torch.set_num_threads(1)
    unit = 1 if sys.platform == "darwin" else 1024
    try:
        act = prepare(*arguments)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        act()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    except GeniexError:
        return None


def _solution(rival: Rival, case: Case, vectors: int, seed: int) -> Callable[[], object]:
    # A tiny solution comes first, so that libraries that load on first use do not count as workspace.
    rival.prepare(Case(2, case.cell, case.circuit).problem(1, seed))()
    return rival.prepare(_kept(rival, case.problem(vectors, seed)))


def _kept(rival: Rival, problem: Problem) -> Problem:
    return problem.first(rival.vectors(problem))
