"""The filamentary RRAM cell with sinh conduction, as in GENIEx."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.cells.base import Cell, spice_number
from geniex.config import check_number
from geniex.errors import InputError


@dataclass(frozen=True)
class SinhCell(Cell):
    """I = G v0 sinh(u / v0): tunnelling through a filament's gap (Chakraborty et al., DAC 2020, section 4).

    G is the small-signal conductance; the gap that sets it in the device's own equation
    I = I0 exp(-d/d0) sinh(u/v0) is folded into it.
    """

    v0: float = 0.25
    """Voltage scale of the non-linearity, volt; the cell is linear far below it.

    ``solve_cells`` also takes it as a tensor without dimensions, and differentiates in it.
    """

    def __post_init__(self) -> None:
        # No check of a tensor's value: that would wait for the device.
        if not isinstance(self.v0, Tensor):
            check_number("v0", self.v0, low=0.0, open_low=True, unit="V")
        elif self.v0.dim() != 0:
            raise InputError("v0", f"shape {tuple(self.v0.shape)}", "a tensor must have no dimensions")

    def current(self, u: Tensor, g: Tensor) -> Tensor:
        """G v0 sinh(u / v0), in ampere."""
        return (g * self.v0) * torch.sinh(u / self.v0)

    def derivative(self, u: Tensor, g: Tensor) -> Tensor:
        """G cosh(u / v0), in siemens."""
        return g * torch.cosh(u / self.v0)

    def current_and_derivative(self, u: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one sinh: cosh = sqrt(1 + sinh^2)."""
        s = torch.sinh(u / self.v0)
        return (g * self.v0) * s, g * torch.sqrt(1 + s * s)

    def spice(self, name: str, plus: str, minus: str, g: float) -> str:
        """A behavioural current source."""
        scale, v0 = spice_number(g * self.v0), spice_number(self.v0)
        return f"B{name} {plus} {minus} I={scale}*sinh(V({plus},{minus})/{v0})"
