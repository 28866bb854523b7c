"""Differences between the conductances that are asked for and those that are written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.config import check_number, check_positive_int
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.variation.base import Variation, draw_normal


@dataclass(frozen=True)
class FiniteStates(Variation):
    """Cells with few states: each conductance goes to the nearest state, and states lie evenly from G_off to G_on."""

    states: int
    """Number of states, at least 2."""

    def __post_init__(self) -> None:
        check_positive_int("states", self.states)
        if self.states == 1:
            raise InputError("states", 1, "it must be at least 2")

    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The conductance of the nearest state; beyond the window it is G_off or G_on."""
        code = ((conductances - window.g_off) / window.step(self.states)).round().clamp(0, self.states - 1)
        nearest = window.g_off + code * window.step(self.states)
        # Conductances that are at a state up to rounding stay as they are.
        return torch.where((nearest - conductances).abs() <= 1e-6 * window.g_on, conductances, nearest)


@dataclass(frozen=True)
class ProgrammingError(Variation):
    """A normal error of every write, with verification if there is a tolerance.

    A write-verify loop reads a cell exactly after each write, and writes it again while it is off by more than
    ``tolerance``; after ``attempts`` writes it stays as the last write left it.
    """

    sigma: tuple[float, ...]
    """Standard deviation over G_on as a polynomial in g / G_on, lowest power first: ``(0.02,)`` is an absolute error of
    2 % of G_on, ``(0, 0.05)`` an error of 5 % of the target. Where the polynomial is negative there is no error."""
    tolerance: float | None = None
    """Accepted error as a share of G_on; None writes once, without verification."""
    attempts: int = 1
    """Largest number of writes of a cell."""

    def __post_init__(self) -> None:
        if not isinstance(self.sigma, tuple) or not self.sigma:
            raise InputError("sigma", repr(self.sigma), "it must be a tuple of coefficients, e.g. (0.02,)")
        for coefficient in self.sigma:
            check_number("sigma", coefficient, low=-1e3)
        check_positive_int("attempts", self.attempts, maximum=1000)
        if self.tolerance is not None:
            check_number("tolerance", self.tolerance, low=0.0)
        elif self.attempts > 1:
            raise InputError(
                "attempts",
                self.attempts,
                "a cell is written again only where its error exceeds a tolerance: give tolerance, too",
            )

    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The written conductances."""
        deviation = self.deviation(conductances, window)
        written = self._write(conductances, deviation, generator)
        for _ in range(self.attempts - 1):
            # All cells are drawn for, so that a tile's draws do not depend on the number of cells to be rewritten.
            again = self._write(conductances, deviation, generator)
            wrong = (written - conductances).abs() > (self.tolerance or 0.0) * window.g_on
            written = torch.where(wrong, again, written)
        return written

    def deviation(self, conductances: Tensor, window: ConductanceWindow) -> Tensor:
        """The standard deviation of each write, in the shape of ``conductances`` [S]."""
        relative, share = conductances / window.g_on, torch.zeros_like(conductances)
        for coefficient in reversed(self.sigma):
            share = share * relative + coefficient
        return window.g_on * share.clamp(min=0)

    def _write(self, target: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
        return (target + deviation * draw_normal(target.shape, generator)).clamp(min=0)
