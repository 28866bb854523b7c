"""The exact circuit as an emulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geniex.circuit import Crossbar, solve_cells
from geniex.circuit.checks import check_conductances
from geniex.emulator.base import Emulator
from geniex.emulator.power import PowerMeter, meter_circuit
from geniex.mapping import Architecture


@dataclass(frozen=True)
class CircuitArray:
    """The conductances themselves; all vectors of a tile share the solver's work that depends on them only."""

    conductances: Tensor


class CircuitEmulator(Emulator):
    """The native solver in the loop, exact to ``tol``: the ground truth for the other emulators."""

    name = "circuit"
    cacheable = True

    def __init__(self, crossbar: Crossbar, tol: float | None = None) -> None:
        super().__init__()
        self.crossbar, self.tol = crossbar, tol

    @property
    def exact(self) -> bool:
        """True, up to ``tol``."""
        return True

    @property
    def tile(self) -> tuple[int, int]:
        """The crossbar's (rows, cols)."""
        return (self.crossbar.rows, self.crossbar.cols)

    @property
    def floats_per_read(self) -> int:
        """Twice the cell voltages; the solver chunks its own iterates."""
        return 2 * self.crossbar.rows * self.crossbar.cols

    def program(self, conductances: Tensor) -> CircuitArray:
        """The conductances (..., rows, cols) [S], checked."""
        check_conductances(conductances, self.crossbar.rows, self.crossbar.cols)
        self.crossbar.cell.check_range(conductances, 0.0)
        return CircuitArray(conductances)

    def bind(self, architecture: Architecture) -> CircuitEmulator:
        """This very emulator.

        Raises:
            ConversionError: the architecture has another tile.
            InputError: the cell's model does not cover the architecture's ``v_max`` or window.
        """
        super().bind(architecture)
        window = architecture.window
        self.crossbar.cell.check_range(torch.tensor([window.g_off, window.g_on]), architecture.v_max)
        return self

    @property
    def description(self) -> str:
        """The crossbar in words."""
        return f"circuit: {self.crossbar.description}"

    def settings(self) -> dict[str, Any]:
        """The crossbar and the tolerance."""
        return {"crossbar": self.crossbar.to_dict(), "tol": self.tol}

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None
    ) -> CircuitEmulator:
        """The emulator of the crossbar in ``settings``."""
        return cls(Crossbar.from_dict(settings["crossbar"]), tol=settings["tol"])

    def power_meter(self, conductances: Tensor, currents: Callable[[Tensor], Tensor]) -> PowerMeter:
        """The power of the solved circuit."""
        return meter_circuit(self.crossbar, self.tol, conductances)

    def read(self, array: CircuitArray, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A]; raises ``ConvergenceError`` where an array is not solved to ``tol``."""
        crossbar = self.crossbar
        return solve_cells(voltages, array.conductances, crossbar.cell, crossbar.wires, tol=self.tol).currents
