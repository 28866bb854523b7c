"""The peak memory of some work, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from geniex.errors import GeniexError
from geniex.study.bench.cases import Case, Problem
from geniex.study.bench.rivals import Rival


class MemoryMeter:
    """Runs work piece by piece, each in a fresh process; use it as a context."""

    def __init__(self) -> None:
        # A fork server has torch loaded, so a fresh process costs no start of it; Windows has none.
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
        """Bytes that the process grows by at most while ``rival`` solves ``case``; None where unknown."""
        return self.growth(_solution, rival, case, vectors, seed)

    def growth(self, prepare: Callable[..., Callable[[], object]], *arguments: object) -> int | None:
        """Bytes that the process grows by at most during ``prepare(*arguments)()``, without what prepares it."""
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
    # A tiny solution first: libraries that load on first use are nobody's workspace.
    rival.prepare(Case(2, case.cell, case.circuit).problem(1, seed))()
    return rival.prepare(_kept(rival, case.problem(vectors, seed)))


def _kept(rival: Rival, problem: Problem) -> Problem:
    return problem.first(rival.vectors(problem))
