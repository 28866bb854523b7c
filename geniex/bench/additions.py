"""The additions of a checkout to benchmark reports: bars, random campaigns, and times of other simulators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Bar:
    """One figure and its bar, the limit that the project sets for it."""

    figure: str
    """Name of the figure."""
    unit: str
    """Unit of ``limit`` and ``measured``, as printed."""
    limit: float
    measured: float | None
    """Measured figure; None if this run did not measure it."""
    at_least: bool = False
    """Whether the figure must reach the limit; otherwise it must not exceed it."""
    where: str = ""
    """Case of the figure, if it is the worst of several."""
    partial: str = ""
    """Shortfall of this run that keeps a good figure from meeting the bar; empty for a full run."""

    @property
    def met(self) -> bool | None:
        """Whether the figure meets its bar; None if it was not measured, or is good but from a partial run."""
        if self.measured is None:
            return None
        good = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return None if good and self.partial else good

    def to_dict(self) -> dict[str, Any]:
        """The bar as JSON-ready plain values."""
        return vars(self) | {"met": self.met}


@dataclass(frozen=True)
class Campaign:
    """Errors of the native solver against one oracle on random arrays."""

    oracle: str
    """Name of the solver that gives the reference."""
    up_to: int
    """Largest number of rows or columns that may be drawn."""
    sizes: tuple[int, int]
    """Smallest and largest number of rows or columns that were drawn."""
    arrays: int
    """Number of arrays that both solved."""
    worst: float | None
    """Largest error of a column current over these arrays."""
    median: float | None
    """Median over these arrays of their largest error."""
    worst_array: str | None
    """Array with the worst error, in words."""
    oracles_apart: float | None
    """Largest error of SuperLU against the oracle; None if SuperLU is the oracle or missing."""
    failures: tuple[str, ...]
    """Arrays that the native solver did not solve, in words."""
    oracle_failures: tuple[str, ...]
    """Arrays that the oracle did not solve, in words."""


class Elsewhere(NamedTuple):
    """The time of another simulator for a 64->64 3x3 convolution on one 16x16 map."""

    simulator: str
    setting: str
    seconds: float
    over_torch: float | None
    """Ratio to the time of torch's float layer on the same machine."""
    source: str
