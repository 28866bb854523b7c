"""The ideal crossbar: no wires, linear cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from geniex.circuit import shared_matmul
from geniex.circuit.checks import check_conductances
from geniex.emulator.base import Emulator
from geniex.emulator.power import PowerMeter, meter_ideal


@dataclass(frozen=True)
class IdealArray:
    """The conductances themselves."""

    conductances: Tensor


class IdealEmulator(Emulator):
    """The ideal product I = V @ G.

    >>> import torch
    >>> emulator = IdealEmulator()
    >>> emulator.read(emulator.program(torch.tensor([[1e-5], [2e-5]])), torch.tensor([0.2, 0.1]))
    tensor([4.0000e-06])
    """

    name = "ideal"
    cacheable = True

    @property
    def description(self) -> str:
        """The ideal properties in words."""
        return "ideal: no wires, linear cells"

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None
    ) -> IdealEmulator:
        """An ideal emulator, which has no settings."""
        return cls()

    def program(self, conductances: Tensor) -> IdealArray:
        """The conductances (..., rows, cols) [S] of any tile size, checked."""
        check_conductances(conductances, *conductances.shape[-2:])
        return IdealArray(conductances)

    def read(self, array: IdealArray, voltages: Tensor) -> Tensor:
        """V @ G (..., cols) [A]."""
        return shared_matmul(voltages, array.conductances)

    def power_meter(self, conductances: Tensor, currents: Callable[[Tensor], Tensor]) -> PowerMeter:
        """The exact power of cells without wires, sum_ij V_i^2 G_ij."""
        return meter_ideal(conductances)

    def response(self, array: IdealArray) -> Tensor:
        """The conductances G (..., rows, cols) [S]."""
        return array.conductances
