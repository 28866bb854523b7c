"""The ohmic cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from geniex.cells.base import Cell


@dataclass(frozen=True)
class LinearCell(Cell):
    """An ohmic cell, I = G u.

    >>> LinearCell().spice("x1", "r", "c", 1e-4)
    'Rx1 r c 10000.0'
    """

    _words: ClassVar[str | None] = "linear cells"

    @property
    def is_linear(self) -> bool:
        """True, because I = G u: the whole array is linear."""
        return True

    @property
    def scales_with_conductance(self) -> bool:
        """True, because I = G u."""
        return True

    def current(self, u: Tensor, g: Tensor) -> Tensor:
        """The current G u, in ampere."""
        return g * u

    def derivative(self, u: Tensor, g: Tensor) -> Tensor:
        """The slope G, in siemens, in the broadcast shape."""
        return g.expand(torch.broadcast_shapes(u.shape, g.shape))

    def spice(self, name: str, plus: str, minus: str, g: float) -> str:
        """The card of a resistor of 1/G."""
        return f"R{name} {plus} {minus} {1.0 / g!r}"
