"""Spread of conductances from device to device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from geniex.config import check_number
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.variation.base import Variation, draw_normal

Distribution = Literal["normal", "lognormal"]
Per = Literal["cell", "array"]

_LEAST = 0.1
"""Lower limit of a resistance's factor, because a normal factor may be 0 or less, which is no resistance."""


@dataclass(frozen=True)
class ConductanceSpread(Variation):
    """Each conductance times a random factor of its cell or array.

    With a standard normal z, the factor is 1 + sigma z ("normal", kept at 0 or above) or exp(sigma z) ("lognormal",
    with median 1 and mean exp(sigma^2 / 2)).
    """

    sigma: float
    """Standard deviation of the factor, or of its logarithm."""
    distribution: Distribution = "normal"
    """Distribution of the factor, "normal" or "lognormal"."""
    per: Per = "cell"
    """Unit with a factor of its own: each "cell", or each "array" with all its cells."""

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, low=0.0)
        _check_kind(self.distribution, self.per)

    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The conductances times their factors."""
        draws = draw_normal(_shape(conductances, self.per), generator)
        return conductances * _factor(draws, self.sigma, self.distribution)


@dataclass(frozen=True)
class RangeSpread(Variation):
    """R_on and R_off that differ from cell to cell or array to array, each by a random factor of its own.

    Both ends of the window move, and a conductance keeps its relative place x between them: it becomes
    g + (1 - x) dG_off + x dG_on. Factors are those of ``ConductanceSpread`` but kept at 0.1 or above, which is our
    choice.
    """

    sigma_on: float
    """Standard deviation of R_on's factor, or of its logarithm."""
    sigma_off: float
    """Standard deviation of R_off's factor, or of its logarithm."""
    distribution: Distribution = "lognormal"
    """Distribution of the factors, "normal" or "lognormal"."""
    per: Per = "cell"
    """Unit with factors of its own: each "cell", or each "array" with all its cells."""

    def __post_init__(self) -> None:
        check_number("sigma_on", self.sigma_on, low=0.0)
        check_number("sigma_off", self.sigma_off, low=0.0)
        _check_kind(self.distribution, self.per)

    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The conductances at the same places in the moved windows."""
        shape = _shape(conductances, self.per)
        moved = []
        for end, sigma in ((window.g_on, self.sigma_on), (window.g_off, self.sigma_off)):
            factor = _factor(draw_normal(shape, generator), sigma, self.distribution).clamp(min=_LEAST)
            moved.append(end * (1 / factor - 1))
        place = (conductances - window.g_off) / (window.g_on - window.g_off)
        return conductances + place * moved[0] + (1 - place) * moved[1]


@dataclass(frozen=True)
class LevelSpread(Variation):
    """A normal error of each cell, whose mean and standard deviation are measured level by level.

    Levels lie evenly from G_off to G_on. Both figures are interpolated between levels; beyond the window those of the
    nearest level hold.
    """

    sigmas: tuple[float, ...]
    """Standard deviation at each level, lowest first, as a share of G_on."""
    shifts: tuple[float, ...] | None = None
    """Mean error at each level, as a share of G_on; None means 0."""

    def __post_init__(self) -> None:
        _check_table("sigmas", self.sigmas)
        for sigma in self.sigmas:
            check_number("sigmas", sigma, low=0.0)
        if self.shifts is not None:
            _check_table("shifts", self.shifts)
            for shift in self.shifts:
                check_number("shifts", shift, low=-1.0)
            if len(self.shifts) != len(self.sigmas):
                raise InputError(
                    "shifts", f"{len(self.shifts)} values", f"give one for each of the {len(self.sigmas)} sigmas"
                )

    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The conductances plus their errors."""
        place = (conductances - window.g_off) / (window.g_on - window.g_off)
        error = _interpolated(self.sigmas, place) * draw_normal(conductances.shape, generator)
        if self.shifts is not None:
            error = error + _interpolated(self.shifts, place)
        return conductances + window.g_on * error


def _interpolated(table: Sequence[float], place: Tensor) -> Tensor:
    values = torch.tensor(table, dtype=place.dtype)
    at = place.clamp(0, 1) * (len(table) - 1)
    low = at.floor().long().clamp(max=len(table) - 2)
    return torch.lerp(values[low], values[low + 1], at - low)


def _factor(draws: Tensor, sigma: float, distribution: Distribution) -> Tensor:
    return torch.exp(sigma * draws) if distribution == "lognormal" else (1 + sigma * draws).clamp(min=0)


def _shape(conductances: Tensor, per: Per) -> tuple[int, ...]:
    return tuple(conductances.shape) if per == "cell" else (*conductances.shape[:-2], 1, 1)


def _check_kind(distribution: object, per: object) -> None:
    for name, value, kind in (("distribution", distribution, Distribution), ("per", per, Per)):
        if value not in get_args(kind):
            raise InputError(name, repr(value), f"it must be one of {', '.join(get_args(kind))}")


def _check_table(name: str, values: object) -> None:
    if not isinstance(values, tuple) or len(values) < 2:
        raise InputError(name, repr(values), "it must be a tuple with one number for each level, at least 2")
