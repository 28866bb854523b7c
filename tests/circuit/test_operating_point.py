"""Node voltages, driver currents and powers of a crossbar against Kirchhoff's law and the balance of power."""

import pytest
import torch
from circuits import WIRINGS, drives, tiles
from kirchhoff import NodalCircuit
from torch import Tensor
from torch.autograd import gradcheck

from geniex.cells import Cell, LinearCell, SinhCell
from geniex.circuit import Crossbar, Wires, operating_point
from geniex.errors import InputError

TIGHT = 1e-12


@pytest.mark.parametrize("cell", [LinearCell(), SinhCell(v0=0.1)], ids=str)
@pytest.mark.parametrize("wiring", WIRINGS)
def test_nodes_are_at_kirchhoffs_voltages(wiring: str, cell: Cell, generator: torch.Generator) -> None:
    xbar = Crossbar(4, 6, cell=cell, **WIRINGS[wiring])
    v, g = drives(4, generator=generator), tiles(4, 6, generator=generator)
    g[1, 2] = 0
    point = xbar.operating_point(v, g, tol=TIGHT)
    nodal = NodalCircuit(xbar).nodes(v.numpy(), g.numpy(), getattr(cell, "v0", None))
    current, word, bit = (torch.from_numpy(x) for x in nodal)
    # 1e-12 of the largest voltage and current: what is asked of the solver, times ten.
    largest, most = v.abs().max().item(), current.abs().max().item()
    torch.testing.assert_close(point.word_line_voltages, word, rtol=0, atol=1e-11 * largest)
    torch.testing.assert_close(point.bit_line_voltages, bit, rtol=0, atol=1e-11 * largest)
    torch.testing.assert_close(point.cell_voltages, word - bit, rtol=0, atol=1e-11 * largest)
    torch.testing.assert_close(point.cell_currents, current, rtol=0, atol=1e-11 * most)
    torch.testing.assert_close(point.row_currents, current.sum(1), rtol=0, atol=1e-11 * most)
    torch.testing.assert_close(point.currents, xbar.solve(v, g, method="native", tol=TIGHT))


@pytest.mark.parametrize("wiring", WIRINGS)
def test_drivers_deliver_what_cells_wires_and_terminals_turn_to_heat(wiring: str, generator: torch.Generator) -> None:
    xbar = Crossbar(5, 7, **WIRINGS[wiring])
    v, g = drives(3, 1, 5, generator=generator), tiles(2, 5, 7, generator=generator)
    point = xbar.operating_point(v, g, tol=TIGHT)
    assert point.power.shape == (3, 2)
    torch.testing.assert_close(point.cell_power + point.wire_power + point.terminal_power, point.power)
    for part in (point.cell_power, point.wire_power, point.terminal_power):
        assert (part >= 0).all(), "resistances and passive cells take up power"
    torch.testing.assert_close(point.row_currents.sum(-1), point.currents.sum(-1))


def test_power_of_one_cell_is_shared_as_its_resistances() -> None:
    xbar = Crossbar(2, 2, r_source=1e3, r_sink=2e3, r_wire_row=300.0, r_wire_col=700.0, cell=LinearCell())
    g = torch.zeros(2, 2, dtype=torch.float64)
    g[0, 1] = 1e-4
    point = xbar.operating_point(torch.tensor([0.14, 0.0], dtype=torch.float64), g)
    current = 0.14 / 14e3
    for part, resistance in ((point.cell_power, 1e4), (point.wire_power, 1e3), (point.terminal_power, 3e3)):
        assert part.item() == pytest.approx(resistance * current**2, rel=1e-9)
    assert point.energy(read_time=20e-9).item() == pytest.approx(0.14 * current * 20e-9, rel=1e-9)


def test_a_driver_at_a_lower_voltage_takes_current_up() -> None:
    # Without a way to ground worth mentioning, the bit line passes current from one row to the other.
    xbar = Crossbar(2, 1, r_sink=1e6, cell=LinearCell())
    point = xbar.operating_point(torch.tensor([0.2, 0.1]).double(), torch.full((2, 1), 1e-5).double())
    assert point.row_currents[0] > 0 > point.row_currents[1]
    assert point.power > 0


def test_gradients_of_power_and_nodes(generator: torch.Generator) -> None:
    v = drives(3, generator=generator).requires_grad_()
    micro = (tiles(2, 3, 4, generator=generator) * 1e6).requires_grad_()
    sink = torch.tensor([0.1, 0.4], dtype=torch.float64, requires_grad=True)

    def outputs(v: Tensor, micro: Tensor, sink: Tensor) -> tuple[Tensor, ...]:
        point = operating_point(v, micro / 1e6, SinhCell(), Wires(500.0, 1e3 * sink, 20.0, 30.0), tol=1e-13)
        powers = (point.power, point.cell_power, point.wire_power, point.terminal_power)
        return point.word_line_voltages, point.bit_line_voltages, *(1e6 * p for p in powers)

    assert gradcheck(outputs, (v, micro, sink))


@pytest.mark.parametrize("read_time", [-1e-9, float("nan"), "10ns"])
def test_energy_needs_a_time(read_time: float) -> None:
    point = Crossbar(1, 1).operating_point(torch.tensor([0.1]), torch.tensor([[1e-5]]))
    with pytest.raises(InputError, match="read_time"):
        point.energy(read_time)


def test_bad_tensors_are_refused() -> None:
    with pytest.raises(InputError, match=r"voltages: got up to 200; .*millivolt"):
        Crossbar(2, 3).operating_point(torch.full((2,), 200.0), torch.full((2, 3), 1e-5))
