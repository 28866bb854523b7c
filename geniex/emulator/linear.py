"""The linear crossbar: exact wires, cells at their small-signal conductance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from geniex.circuit import Crossbar, shared_matmul
from geniex.emulator.base import Emulator
from geniex.emulator.power import PowerMeter, meter_linear


@dataclass(frozen=True)
class LinearArray:
    """The effective conductances A (..., rows, cols) [S]."""

    effective: Tensor


class LinearEmulator(Emulator):
    """The product I = A^T V with the exact effective conductances A; it is exact for linear cells."""

    name = "linear"
    cacheable = True

    def __init__(self, crossbar: Crossbar) -> None:
        super().__init__()
        self.crossbar = crossbar

    @property
    def tile(self) -> tuple[int, int]:
        """The crossbar's (rows, cols)."""
        return (self.crossbar.rows, self.crossbar.cols)

    @property
    def description(self) -> str:
        """The crossbar, whose cells are taken at their small-signal conductance."""
        linearised = "" if self.crossbar.cell.is_linear else "; cells at their small-signal conductance"
        return f"linear: {self.crossbar.description}{linearised}"

    def settings(self) -> dict[str, Any]:
        """The crossbar."""
        return {"crossbar": self.crossbar.to_dict()}

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None
    ) -> LinearEmulator:
        """The emulator of the crossbar in ``settings``."""
        return cls(Crossbar.from_dict(settings["crossbar"]))

    def program(self, conductances: Tensor) -> LinearArray:
        """The effective conductances A of cells (..., rows, cols) [S], with the wires eliminated."""
        return LinearArray(self.crossbar.effective_conductance(conductances))

    def read(self, array: LinearArray, voltages: Tensor) -> Tensor:
        """A^T V (..., cols) [A]."""
        return shared_matmul(voltages, array.effective)

    def power_meter(self, conductances: Tensor, currents: Callable[[Tensor], Tensor]) -> PowerMeter:
        """The exact power of the linear circuit."""
        return meter_linear(self.crossbar, conductances)

    def response(self, array: LinearArray) -> Tensor:
        """The effective conductances A (..., rows, cols) [S]."""
        return array.effective
