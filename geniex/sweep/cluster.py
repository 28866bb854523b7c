"""Runs of tiles solved on a Ray cluster; the results come back to this process, which alone writes files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from geniex.jobs.ray import run_on_ray
from geniex.sweep.config import SweepConfig
from geniex.sweep.solving import TileData

Run = tuple[SweepConfig, int, int]
"""A sweep and a run of its tiles, from the first number up to but not including the second."""


def solve_on_ray(
    solve: Callable[[SweepConfig, int, int], TileData | str],
    runs: Sequence[Run],
    at_once: int | None,
    recycle: int | None,
) -> Iterator[tuple[int, TileData | str]]:
    """Yields each run when it is done: its position in ``runs``, and its tiles or the reason why it failed.

    This connects to the cluster at ``RAY_ADDRESS``, else to one that runs on this machine, else it starts one here.
    All nodes need this version of geniex, but no common file system.

    Args:
        solve: returns a run's tiles, or the reason why they have no solution.
        runs: the runs to solve.
        at_once: runs handed out at a time; None means two for each processor of the cluster.
        recycle: runs after which a worker is replaced, for solvers that leak memory; None means never.

    Raises:
        MissingDependencyError: Ray is not installed.
        SweepError: there is no cluster at ``RAY_ADDRESS``.
    """
    yield from run_on_ray(solve, runs, at_once, recycle)
