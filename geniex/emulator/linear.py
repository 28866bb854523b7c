"""The linear crossbar: exact wires, cells at their small-signal conductance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from geniex.circuit import Crossbar, shared_matmul
from geniex.emulator.base import Emulator


@dataclass(frozen=True)
class LinearArray:
    """The effective conductances A (..., rows, cols) [S]."""

    effective: Tensor


class LinearEmulator(Emulator):
    """I = A^T V with the exact effective conductances A; exact for linear cells."""

    name = "linear"

    def __init__(self, crossbar: Crossbar) -> None:
        self.crossbar = crossbar

    @property
    def tile(self) -> tuple[int, int]:
        """The crossbar's (rows, cols)."""
        return (self.crossbar.rows, self.crossbar.cols)

    def program(self, conductances: Tensor) -> LinearArray:
        """Eliminates the wires of conductances (..., rows, cols) [S]."""
        return LinearArray(self.crossbar.effective_conductance(conductances))

    def read(self, array: LinearArray, voltages: Tensor) -> Tensor:
        """A^T V (..., cols) [A]."""
        return shared_matmul(voltages, array.effective)

    def response(self, array: LinearArray) -> Tensor:
        """A."""
        return array.effective
