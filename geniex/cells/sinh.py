"""The filamentary RRAM cell with sinh conduction, as in GENIEx."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from geniex.cells.base import (
    USUAL_VOLTAGE,
    Cell,
    Scalar,
    check_reference_voltage,
    describe_scalar,
    per_tile,
    spice_number,
)
from geniex.config import check_number, warn_unit


@dataclass(frozen=True)
class SinhCell(Cell):
    """A cell with I = G v0 sinh(u / v0), tunnelling through a filament's gap (Chakraborty et al., DAC 2020, section 4).

    G is the small-signal conductance, or I / u at ``reference_voltage``. The gap d of the device's own equation
    I = I0 exp(-d/d0) sinh(u/v0) is folded into G.
    """

    _words: ClassVar[str | None] = "sinh cells"

    v0: Scalar = 0.25
    """Voltage scale of the non-linearity, volt; the cell is linear far below it.

    ``solve_cells`` also takes it as a tensor, with one value for all tiles or one per tile, and differentiates in it.
    """
    reference_voltage: float | None = None
    """Voltage at which I = G u, volt, such as that of a program-and-verify read; None means that G is dI/du at 0 V."""

    def __post_init__(self) -> None:
        # The value of a tensor is not checked, because that would wait for the device.
        if not isinstance(self.v0, Tensor):
            check_number("v0", self.v0, low=0.0, open_low=True, unit="V")
            if self.v0 > USUAL_VOLTAGE:
                warn_unit("v0", self.v0, "V", "measured cells have 0.1 to 1 V; is this in millivolt?")
        if self.reference_voltage is not None:
            check_reference_voltage(self.reference_voltage)

    @property
    def details(self) -> str:
        """The voltage scale, and the reference voltage where there is one."""
        scale = f"{describe_scalar(self.v0)} V"
        return f"v0 = {scale}" if self.reference_voltage is None else f"v0 = {scale}, G at {self.reference_voltage:g} V"

    @property
    def scales_with_conductance(self) -> bool:
        """True, because the gap only scales the current."""
        return True

    def current(self, u: Tensor, g: Tensor) -> Tensor:
        """The current G v0 sinh(u / v0), in ampere, with G at 0 V."""
        v0 = per_tile(self.v0)
        return (self.small_signal(g) * v0) * torch.sinh(u / v0)

    def derivative(self, u: Tensor, g: Tensor) -> Tensor:
        """The slope G cosh(u / v0), in siemens, with G at 0 V."""
        return self.small_signal(g) * torch.cosh(u / per_tile(self.v0))

    def current_and_derivative(self, u: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The current and its slope from one sinh, as cosh = sqrt(1 + sinh^2)."""
        v0, g = per_tile(self.v0), self.small_signal(g)
        s = torch.sinh(u / v0)
        return (g * v0) * s, g * torch.sqrt(1 + s * s)

    def small_signal(self, g: Tensor) -> Tensor:
        """G, or the slope at 0 V of the cell whose I / u at ``reference_voltage`` is G, in siemens."""
        if self.reference_voltage is None:
            return g
        x = self.reference_voltage / per_tile(self.v0)
        return g * (x / (torch.sinh(x) if isinstance(x, Tensor) else math.sinh(x)))

    def spice(self, name: str, plus: str, minus: str, g: float) -> str:
        """The card of a behavioural current source."""
        v0 = float(self.v0)
        at_zero = float(self.small_signal(torch.tensor(g, dtype=torch.float64)))
        scale = spice_number(at_zero * v0)
        return f"B{name} {plus} {minus} I={scale}*sinh(V({plus},{minus})/{spice_number(v0)})"

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, without an unused ``reference_voltage``: it then equals that of older
        files, and keeps its digest."""
        out = super().to_dict()
        return out if self.reference_voltage is not None else {k: v for k, v in out.items() if k != "reference_voltage"}
