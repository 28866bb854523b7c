"""Changes of programmed conductances over time: drift and retention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.config import Config, check_number
from geniex.mapping import ConductanceWindow
from geniex.variation.base import Variation, draw_normal

_SMALLEST = 1e-7
"""Lower limit of g / G_on before its logarithm is taken."""


@dataclass(frozen=True)
class LogLine(Config):
    """A figure that depends on the conductance: constant + slope ln(g / G_on), clipped to low..high."""

    constant: float
    """Value at G_on."""
    slope: float
    """Change per unit of ln(g / G_on)."""
    low: float
    """Lower limit."""
    high: float
    """Upper limit."""

    def __post_init__(self) -> None:
        for name in ("constant", "slope"):
            check_number(name, getattr(self, name), low=-1e3)
        check_number("low", self.low, low=0.0)
        check_number("high", self.high, low=self.low)

    def at(self, conductances: Tensor, window: ConductanceWindow) -> Tensor:
        """The figure for each of ``conductances`` [S]."""
        share = (conductances / window.g_on).clamp(min=_SMALLEST)
        return (self.constant + self.slope * share.log()).clamp(self.low, self.high)


@dataclass(frozen=True)
class Drift(Variation):
    """Power-law drift, g(t) = g(t0) (t / t0)^-nu, where each cell has its own exponent |N(nu, spread)|."""

    seconds: float
    """Time since programming, seconds, at least ``t0``."""
    nu: float | LogLine
    """Mean exponent."""
    spread: float | LogLine = 0.0
    """Standard deviation of the exponent over the cells."""
    t0: float = 20.0
    """Time after programming, seconds, at which cells have their programmed conductance."""

    def __post_init__(self) -> None:
        check_number("t0", self.t0, low=0.0, open_low=True, unit="s")
        check_number("seconds", self.seconds, low=self.t0, unit="s (t0; a day is 86400 s, a year 3.16e7 s)")
        for name in ("nu", "spread"):
            if not isinstance(getattr(self, name), LogLine):
                check_number(name, getattr(self, name), low=0.0)

    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The conductances after ``seconds``."""
        mean, spread = (x.at(conductances, window) if isinstance(x, LogLine) else x for x in (self.nu, self.spread))
        exponent = (mean + spread * draw_normal(conductances.shape, generator)).abs()
        return conductances * torch.exp(-math.log(self.seconds / self.t0) * exponent)


@dataclass(frozen=True)
class Retention(Variation):
    """Relaxation towards a level, g(t) = g_level + (g(0) - g_level) exp(-(t / tau)^stretch)."""

    seconds: float
    """Time since programming, seconds."""
    tau: float
    """Median time constant of the cells, seconds."""
    level: float = 0.0
    """Conductance that cells relax to, from 0 for G_off to 1 for G_on."""
    stretch: float = 1.0
    """Exponent of the stretched exponential; 1 gives a plain exponential."""
    spread: float = 0.0
    """Standard deviation of ln tau over the cells."""

    def __post_init__(self) -> None:
        check_number("seconds", self.seconds, low=0.0, unit="s")
        check_number("tau", self.tau, low=0.0, open_low=True, unit="s")
        check_number("level", self.level, low=0.0, high=1.0)
        check_number("stretch", self.stretch, low=0.0, high=10.0, open_low=True)  # measured exponents lie near 1
        check_number("spread", self.spread, low=0.0)

    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The conductances after ``seconds``."""
        tau = self.tau * torch.exp(self.spread * draw_normal(conductances.shape, generator))
        level = window.g_off + self.level * (window.g_on - window.g_off)
        # The lost share is computed, not the kept one, so that no bit changes at 0 s.
        lost = -torch.expm1(-((self.seconds / tau) ** self.stretch))
        return conductances + (level - conductances) * lost
