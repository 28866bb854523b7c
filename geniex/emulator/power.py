"""The power that the drivers of programmed tiles deliver during a read, for each kind of circuit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.circuit import Crossbar, operating_point, shared_matmul
from geniex.circuit.solve.elimination import solve_linear_array
from geniex.workspace import workspace_bytes

_BYTES = 64 << 20
"""Bytes of cell voltages that are solved for at once."""
Currents = Callable[[Tensor], Tensor]
"""A read of some tiles: column currents (..., cols) [A] for voltages (..., rows) [V]."""


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


def meter_ideal(conductances: Tensor) -> PowerMeter:
    """The meter of tiles (..., rows, cols) [S] without wires: sum_ij V_i^2 G_ij."""
    by_row = conductances.sum(-1, keepdim=True)
    return PowerMeter(lambda v: shared_matmul(v.square(), by_row)[..., 0], True, 2)


def meter_linear(crossbar: Crossbar, conductances: Tensor) -> PowerMeter:
    """The meter of the linear circuit: V^T Y V with the drivers' admittances Y.

    The cells are at their small-signal conductance.
    """
    return _quadratic(compute_driver_admittances(crossbar, conductances))


def meter_circuit(crossbar: Crossbar, tol: float | None, conductances: Tensor) -> PowerMeter:
    """The meter of the exact circuit: sum_i V_i I_i with the currents I_i of the word lines, solved to ``tol``."""

    def read(voltages: Tensor) -> Tensor:
        return operating_point(voltages, conductances, crossbar.cell, crossbar.wires, tol=tol).power

    return PowerMeter(read, True, 8 * conductances.shape[-1] * conductances.shape[-2])


def meter_by_gain(crossbar: Crossbar, conductances: Tensor, currents: Currents, floats_per_read: int) -> PowerMeter:
    """The meter of a circuit of which only the column ``currents`` and the linear circuit are known.

    By Kirchhoff's law the sum of the column currents is that of the drivers' currents. Let r be this sum over that of
    the linear circuit: the mean gain of the currents by the non-linear cells. If all of r - 1 were cubic in the
    voltage, as the first non-linear term of every cell is, the linear circuit's power would grow by

        1 + (r - 1) (m_4 / m_3) (m_1 / m_2),   m_k = sum_ij V_i^k G_ij,

    because power weighs a cell's current by its voltage once more. With the exact column currents this is within 0.4 %
    of the exact circuit for every shipped preset up to 64 x 64, and within 0.03 % where all drivers have one voltage,
    as with 1-bit streams. (The ideal power is up to 20 % off at the nominal 64 x 64, and 300 % where wires dominate.)
    """
    admittances, by_row = compute_driver_admittances(crossbar, conductances), conductances.sum(-1, keepdim=True)
    linear, drawn = _quadratic(admittances), admittances.sum(-1, keepdim=True)

    def read(voltages: Tensor) -> Tensor:
        first, second, third, fourth = (shared_matmul(voltages**k, by_row)[..., 0] for k in (1, 2, 3, 4))
        gain = currents(voltages).sum(-1) / shared_matmul(voltages, drawn)[..., 0] - 1
        power = linear.read(voltages) * (1 + gain * (fourth / third) * (first / second))
        return torch.where(first == 0, 0.0, power)  # without any drive the power above is 0 / 0

    return PowerMeter(read, False, linear.floats_per_read + conductances.shape[-1] + floats_per_read)


def estimate_power(conductances: Tensor, currents: Currents, floats_per_read: int) -> PowerMeter:
    """The meter of tiles of which no circuit is known.

    It takes the ideal power times the sum of the ``currents`` over that of the ideal ones, which is 4 % off at the
    nominal 64 x 64 and 30 % where wires dominate.
    """
    ideal, by_row = meter_ideal(conductances), conductances.sum(-1, keepdim=True)

    def read(voltages: Tensor) -> Tensor:
        total = shared_matmul(voltages, by_row)[..., 0]
        power = ideal.read(voltages) * currents(voltages).sum(-1) / total
        return torch.where(total == 0, 0.0, power)

    return PowerMeter(read, False, conductances.shape[-1] + floats_per_read)


def compute_driver_admittances(crossbar: Crossbar, conductances: Tensor) -> Tensor:
    """Admittances Y (..., rows, rows) [S], symmetric, with which driver k delivers the current sum_i V_i Y_ik.

    The cells ``conductances`` (..., rows, cols) [S] are at their small-signal conductance. Y is solved for directly, to
    the dtype's rounding.
    """
    rows, cols = conductances.shape[-2:]
    cells = crossbar.cell.small_signal(conductances).reshape(-1, rows, cols)
    drives = torch.eye(rows, dtype=cells.dtype, device=cells.device)[:, None, :, None]
    found = []
    for tiles in cells.split(max(1, workspace_bytes(_BYTES) // (4 * rows * rows * cols * cells.element_size()))):
        voltages = solve_linear_array(tiles, crossbar.wires, drives.expand(-1, *tiles.shape))
        found.append((voltages * tiles).sum(-1).transpose(0, 1))
    return torch.cat(found).reshape(*conductances.shape[:-1], rows)


def _quadratic(admittances: Tensor) -> PowerMeter:
    return PowerMeter(lambda v: (shared_matmul(v, admittances) * v).sum(-1), True, 2 * admittances.shape[-1])
