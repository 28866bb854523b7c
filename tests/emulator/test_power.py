"""Power of reads against the exact circuit's, which is the sum of what its resistances turn to heat."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from geniex.cells import LinearCell, SinhCell
from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, StoredEmulator
from geniex.emulator.power import PowerMeter, compute_driver_admittances
from geniex.mapping import ConductanceWindow
from geniex.preset import presets
from geniex.surrogate import Surrogate

UNEQUAL = {"r_source": 400.0, "r_sink": 150.0, "r_wire_row": 7.0, "r_wire_col": 3.0}


def tiles(rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """Drives (vectors, 1, rows) of four bits, one of them none, and cells (2, rows, cols) of any level."""
    torch.manual_seed(0)
    levels = torch.randint(0, 16, (5, 1, rows)).double()
    levels[0] = 0
    return levels / 60, 1.7e-6 + 8.3e-6 * torch.rand(2, rows, cols, dtype=torch.float64)


def power_meter(emulator: Emulator, cells: Tensor) -> PowerMeter:
    return emulator.power_meter(cells, partial(emulator.read, emulator.program(cells)))


def heat(crossbar: Crossbar, voltages: Tensor, cells: Tensor) -> Tensor:
    """Of cells, wires and terminals (vectors, tiles) [W]: not by way of the drivers' currents."""
    point = crossbar.operating_point(voltages, cells, tol=1e-11)
    return point.cell_power + point.wire_power + point.terminal_power


def test_a_linear_emulators_power_is_the_exact_circuits() -> None:
    for rows, cols in (6, 9), (11, 4):
        voltages, cells = tiles(rows, cols)
        crossbar = Crossbar(rows, cols, cell=LinearCell(), **UNEQUAL)
        meter = power_meter(LinearEmulator(crossbar), cells)
        assert meter.exact
        torch.testing.assert_close(meter.read(voltages), heat(crossbar, voltages, cells), rtol=1e-9, atol=1e-18)
        assert not meter.read(voltages)[0].any()
        # Cells that are not linear are taken at their small-signal conductance, as columns are.
        sinh = power_meter(LinearEmulator(crossbar.replace(cell=SinhCell(v0=0.2))), cells)
        torch.testing.assert_close(sinh.read(voltages), meter.read(voltages), rtol=1e-12, atol=0)
        stored = StoredEmulator(LinearEmulator(crossbar), dtype=torch.float16)
        assert torch.equal(power_meter(stored, cells).read(voltages), meter.read(voltages))


def test_admittances_are_those_of_a_passive_network() -> None:
    _, cells = tiles(7, 5)
    crossbar = Crossbar(7, 5, cell=LinearCell(), **UNEQUAL)
    found = compute_driver_admittances(crossbar, cells[None])
    assert found.shape == (1, 2, 7, 7)
    torch.testing.assert_close(found, found.mT, rtol=1e-10, atol=1e-20)
    assert (torch.linalg.eigvalsh(found) > 0).all()
    # What all drivers deliver at 1 V leaves by the columns.
    leaving = crossbar.effective_conductance(cells).sum((-1, -2))
    torch.testing.assert_close(found.sum((-1, -2)), leaving[None], rtol=1e-9, atol=0)


def test_a_circuit_emulators_power_is_the_exact_circuits() -> None:
    voltages, cells = tiles(6, 9)
    crossbar = Crossbar(6, 9, cell=SinhCell(v0=0.15), **UNEQUAL)
    meter = power_meter(CircuitEmulator(crossbar, tol=1e-11), cells)
    assert meter.exact
    torch.testing.assert_close(meter.read(voltages), heat(crossbar, voltages, cells), rtol=1e-8, atol=1e-18)


def test_an_ideal_arrays_power_is_that_of_a_circuit_without_wires() -> None:
    voltages, cells = tiles(6, 9)
    wireless = Crossbar(6, 9, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=LinearCell())
    meter = power_meter(IdealEmulator(), cells)
    assert meter.exact
    torch.testing.assert_close(meter.read(voltages), heat(wireless, voltages, cells), rtol=1e-9, atol=1e-18)


class Exact(Surrogate):
    """A surrogate without errors."""

    def __init__(self, crossbar: Crossbar, window: ConductanceWindow, v_max: float) -> None:
        super().__init__(crossbar, window, v_max)
        self.circuit = CircuitEmulator(crossbar)

    def options(self) -> dict[str, Any]:
        return {}

    def program(self, conductances: Tensor) -> Any:
        return self.circuit.program(conductances)

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        return self.circuit.read(array, voltages)


class Unknown(Emulator):
    """A user's own."""

    def __init__(self, crossbar: Crossbar) -> None:
        super().__init__()
        self.circuit = CircuitEmulator(crossbar)

    def program(self, conductances: Tensor) -> Any:
        return self.circuit.program(conductances)

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        return self.circuit.read(array, voltages)


@pytest.mark.parametrize("name", ["geniex-16", "geniex-32", "harsh-64", "yale-64"])
def test_power_from_column_currents_is_near_the_circuits(name: str) -> None:
    """The bounds that ``power_meter`` states: 0.4 %, and 0.03 % for drives of one voltage."""
    preset = presets[name]
    crossbar, rows = preset.crossbar, preset.crossbar.rows
    torch.manual_seed(0)
    levels = torch.randint(0, 16, (2, rows, crossbar.cols)) * (torch.rand(2, rows, crossbar.cols) < 0.5)
    cells = preset.window.to_conductance(levels, 16, torch.float64)
    emulator = Exact(crossbar, preset.window, preset.v_max)
    meter = power_meter(emulator, cells)
    assert not meter.exact
    binary = preset.v_max * (torch.rand(3, 1, rows) < 0.4).double()
    graded = preset.v_max / 15 * torch.randint(0, 16, (3, 1, rows)).double() * (torch.rand(3, 1, rows) < 0.7)
    for voltages, bound in (binary, 3e-4), (graded, 4e-3):
        true = heat(crossbar, voltages, cells)
        assert ((meter.read(voltages) / true - 1).abs() < bound).all()
        ideal = power_meter(IdealEmulator(), cells).read(voltages)
        assert ((ideal / true - 1).abs() > 4 * bound).any()
    assert torch.equal(meter.read(torch.zeros(1, 1, rows, dtype=torch.float64)), torch.zeros(1, 2, dtype=torch.float64))


def test_an_unknown_emulators_power_follows_its_currents() -> None:
    """Of one driver alone it is V I, whatever the circuit, but for what the other word lines take up."""
    preset = presets["geniex-16"]
    torch.manual_seed(0)
    cells = preset.window.to_conductance(torch.randint(0, 16, (2, 16, 16)), 16, torch.float64)
    emulator = Unknown(preset.crossbar)
    meter = power_meter(emulator, cells)
    assert not meter.exact
    graded = preset.v_max / 15 * torch.randint(0, 16, (3, 1, 16)).double()
    true = heat(preset.crossbar, graded, cells)
    assert ((meter.read(graded) / true - 1).abs() < 0.04).all()
    single = torch.zeros(1, 1, 16, dtype=torch.float64)
    single[..., 3] = 0.2
    current = emulator.read(emulator.program(cells), single).sum(-1)
    torch.testing.assert_close(meter.read(single), 0.2 * current, rtol=1e-12, atol=0)
    torch.testing.assert_close(meter.read(single), heat(preset.crossbar, single, cells), rtol=0.015, atol=0)
    assert not meter.read(single * 0).any()
