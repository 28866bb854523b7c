"""The power that the drivers of programmed tiles deliver during a read, by the physics of the tiles' emulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geniex.circuit import Crossbar, operating_point, shared_matmul
from geniex.circuit.solve.elimination import solve_linear_array
from geniex.emulator.base import Emulator
from geniex.emulator.circuit import CircuitEmulator
from geniex.emulator.ideal import IdealEmulator
from geniex.emulator.linear import LinearEmulator

_BYTES = 64 << 20
"""Bytes of cell voltages that are solved for at once."""


@dataclass(frozen=True)
class PowerMeter:
    """A meter of the power of some programmed tiles."""

    read: Callable[[Tensor], Tensor]
    """Static power (...) [W] that the drivers deliver at voltages (..., rows) [V]: the sum of V_i I_i over word lines.

    Leading dimensions broadcast with the tiles'.
    """
    exact: bool
    """Whether the power is that of the emulator's own circuit; otherwise it is estimated from its column currents."""
    floats_per_read: int
    """Workspace per tile and voltage vector, in numbers."""


def power_meter(emulator: Emulator, array: Any, conductances: Tensor) -> PowerMeter:
    """The meter of tiles (..., rows, cols) [S] that the ``emulator`` has programmed as ``array``.

    For ideal, linear and circuit emulators it is the power of the circuit that they stand for, sum_i V_i I_i with the
    currents I_i of the word lines. The ideal circuit takes sum_ij V_i^2 G_ij. The linear circuit takes V^T Y V with the
    drivers' admittances Y, for cells at their small-signal conductance.

    Surrogates give column currents alone. By Kirchhoff's law their sum is that of the drivers' currents. Let r be
    this sum over that of the linear circuit: the mean gain of the currents by the non-linear cells. If all of r - 1
    were cubic in the voltage, as the first non-linear term of every cell is, the linear circuit's power would grow by

        1 + (r - 1) (m_4 / m_3) (m_1 / m_2),   m_k = sum_ij V_i^k G_ij,

    because power weighs a cell's current by its voltage once more. With the exact column currents this is within 0.4 %
    of the exact circuit for every shipped preset up to 64 x 64, and within 0.03 % where all drivers have one voltage,
    as with 1-bit streams. (The ideal power is up to 20 % off at the nominal 64 x 64, and 300 % where wires dominate.)

    For all other emulators no circuit is known. The meter then takes the ideal power times the sum of the emulator's
    currents over that of the ideal ones, which is 4 % off at the nominal 64 x 64 and 30 % where wires dominate.
    """
    from geniex.surrogate.emulator import SurrogateEmulator

    known = emulator.worker
    if isinstance(known, IdealEmulator):
        return _ideal(conductances)
    if isinstance(known, LinearEmulator):
        return _linear(known.crossbar, conductances)
    if isinstance(known, CircuitEmulator):
        return _circuit(known, conductances)
    if isinstance(known, SurrogateEmulator):
        return _surrogate(known.crossbar, emulator, array, conductances)
    return _unknown(emulator, array, conductances)


def driver_admittances(crossbar: Crossbar, conductances: Tensor) -> Tensor:
    """Admittances Y (..., rows, rows) [S], symmetric, with which driver k delivers the current sum_i V_i Y_ik.

    The cells ``conductances`` (..., rows, cols) [S] are at their small-signal conductance. Y is solved for directly, to
    the dtype's rounding.
    """
    rows, cols = conductances.shape[-2:]
    cells = crossbar.cell.small_signal(conductances).reshape(-1, rows, cols)
    drives = torch.eye(rows, dtype=cells.dtype, device=cells.device)[:, None, :, None]
    found = []
    for tiles in cells.split(max(1, _BYTES // (4 * rows * rows * cols * cells.element_size()))):
        voltages = solve_linear_array(tiles, crossbar.wires, drives.expand(-1, *tiles.shape))
        found.append((voltages * tiles).sum(-1).transpose(0, 1))
    return torch.cat(found).reshape(*conductances.shape[:-1], rows)


def _ideal(conductances: Tensor) -> PowerMeter:
    by_row = conductances.sum(-1, keepdim=True)
    return PowerMeter(lambda v: shared_matmul(v.square(), by_row)[..., 0], True, 2)


def _linear(crossbar: Crossbar, conductances: Tensor) -> PowerMeter:
    return _quadratic(driver_admittances(crossbar, conductances))


def _quadratic(admittances: Tensor) -> PowerMeter:
    return PowerMeter(lambda v: (shared_matmul(v, admittances) * v).sum(-1), True, 2 * admittances.shape[-1])


def _circuit(emulator: CircuitEmulator, conductances: Tensor) -> PowerMeter:
    crossbar, tol = emulator.crossbar, emulator.tol

    def read(voltages: Tensor) -> Tensor:
        return operating_point(voltages, conductances, crossbar.cell, crossbar.wires, tol=tol).power

    return PowerMeter(read, True, 8 * conductances.shape[-1] * conductances.shape[-2])


def _surrogate(crossbar: Crossbar, emulator: Emulator, array: Any, conductances: Tensor) -> PowerMeter:
    admittances, by_row = driver_admittances(crossbar, conductances), conductances.sum(-1, keepdim=True)
    linear, drawn = _quadratic(admittances), admittances.sum(-1, keepdim=True)

    def read(voltages: Tensor) -> Tensor:
        first, second, third, fourth = (shared_matmul(voltages**k, by_row)[..., 0] for k in (1, 2, 3, 4))
        gain = emulator.read(array, voltages).sum(-1) / shared_matmul(voltages, drawn)[..., 0] - 1
        power = linear.read(voltages) * (1 + gain * (fourth / third) * (first / second))
        return torch.where(first == 0, 0.0, power)  # without any drive the power above is 0 / 0

    return PowerMeter(read, False, linear.floats_per_read + conductances.shape[-1] + emulator.floats_per_read)


def _unknown(emulator: Emulator, array: Any, conductances: Tensor) -> PowerMeter:
    ideal, by_row = _ideal(conductances), conductances.sum(-1, keepdim=True)

    def read(voltages: Tensor) -> Tensor:
        total = shared_matmul(voltages, by_row)[..., 0]
        power = ideal.read(voltages) * emulator.read(array, voltages).sum(-1) / total
        return torch.where(total == 0, 0.0, power)

    return PowerMeter(read, False, conductances.shape[-1] + emulator.floats_per_read)
