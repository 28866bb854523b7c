"""The conductance window: digital levels to conductances and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from geniex.cells.base import MAX_VOLTAGE, USUAL_VOLTAGE
from geniex.config import Config, check_number, warn_unit
from geniex.errors import InputError

_USUAL_R_ON = 1e3
"""Resistance [ohm] below which a warning asks for the unit: few memristive cells have less, but numbers in kohm do."""
_USUAL_ON_OFF = 1e4
"""Ratio above which a warning asks for the unit: few cells have a larger one, but off resistances in ohm do."""
_RATIO_EXPECTED = (
    "the ratio R_off / R_on is expected: is this R_off in ohm? Use float('inf') for cells that conduct nothing"
)


@dataclass(frozen=True)
class ConductanceWindow(Config):
    """The range of conductances that a cell is programmed to, [1 / (r_on on_off), 1 / r_on].

    >>> window = ConductanceWindow(r_on=100e3, on_off=6.0)
    >>> window.to_conductance(torch.tensor([0, 15]), levels=16)
    tensor([1.6667e-06, 1.0000e-05])
    """

    r_on: float
    """Resistance of the most conductive state, ohm."""
    on_off: float
    """Ratio of the least conductive state's resistance to that of the most conductive one, above 1; infinite for cells
    that conduct nothing when they are off."""

    def __post_init__(self) -> None:
        check_number("r_on", self.r_on, low=1.0, unit="ohm (no memristive cell conducts more than 1 S)")
        check_number("on_off", self.on_off, low=1.0, unit="(R_off / R_on)", infinite=True)
        if self.on_off == 1:
            raise InputError(
                "on_off", self.on_off, "R_off / R_on must exceed 1, because otherwise all levels are the same"
            )
        if self.r_on < _USUAL_R_ON:
            warn_unit("r_on", self.r_on, "ohm", "memristive cells have kiloohms: is this in kohm?")
        if max(_USUAL_ON_OFF, self.r_on) <= self.on_off < math.inf:
            warn_unit("on_off", self.on_off, "(R_off / R_on)", _RATIO_EXPECTED)

    @cached_property
    def g_on(self) -> float:
        """Conductance of the highest level, siemens."""
        return 1 / self.r_on

    @cached_property
    def g_off(self) -> float:
        """Conductance of level 0, siemens; 0 where ``on_off`` is infinite."""
        return 1 / (self.r_on * self.on_off)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone, for pickles and copies."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def step(self, levels: int) -> float:
        """Difference in conductance between neighbouring levels, siemens."""
        if not isinstance(levels, int) or levels < 2:
            raise InputError("levels", levels, "a cell needs at least 2 levels")
        return (self.g_on - self.g_off) / (levels - 1)

    def to_conductance(self, code: Tensor, levels: int, dtype: torch.dtype | None = None) -> Tensor:
        """G = G_off + code (G_on - G_off) / (levels - 1) [S], any shape; ``dtype`` defaults to torch's default."""
        if not code.is_floating_point():
            code = code.to(dtype or torch.get_default_dtype())
        return self.g_off + code * self.step(levels)

    def to_code(self, g: Tensor, levels: int) -> Tensor:
        """The nearest level (int64) of conductances ``g`` [S]; raises ``InputError`` outside the window."""
        step = self.step(levels)
        code = torch.round((g - self.g_off) / step)
        if g.numel() and not ((code >= 0) & (code <= levels - 1)).all():  # false for NaN
            raise InputError(
                "g",
                f"{g.min().item():g} to {g.max().item():g} S",
                f"conductances must lie in the window, {self.g_off:g} to {self.g_on:g} S",
            )
        return code.to(torch.int64)


def check_drive(v_max: object) -> None:
    """Raise ``InputError`` unless ``v_max``, the highest driver voltage, is positive and plausible in volt.

    Warns above 10 V.
    """
    check_number("v_max", v_max, low=0.0, open_low=True, unit="V")
    if v_max > MAX_VOLTAGE:  # type: ignore[operator]
        raise InputError("v_max", v_max, f"volts are expected, at most {MAX_VOLTAGE:g}; is this in millivolt?")
    if v_max > USUAL_VOLTAGE:  # type: ignore[operator]
        warn_unit("v_max", v_max, "V", "arrays are read with less than 1 V; is this in millivolt?")  # type: ignore[arg-type]
