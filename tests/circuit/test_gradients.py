"""Gradients of the solution against finite differences, and that nothing is differentiated by unrolling."""

import pytest
import torch
from circuits import drives, tiles
from torch import Tensor
from torch.autograd import gradcheck

from geniex.cells import Cell, LinearCell, OneTransistorOneResistor, SinhCell
from geniex.circuit import Crossbar, Wires, solve_cells
from geniex.circuit.transfer_matrix import effective_conductance

MICRO = 1e-6
"""gradcheck's steps and tolerances suit numbers of order one: conductances in uS and currents in uA are."""
TIGHT = 1e-13


def currents(v: Tensor, g_us: Tensor, cell: Cell, wires: Wires) -> Tensor:
    """Column currents in microampere."""
    return solve_cells(v, g_us * MICRO, cell, wires, tol=TIGHT).currents / MICRO


@pytest.fixture
def drive(generator: torch.Generator) -> Tensor:
    return drives(2, 1, 2, generator=generator).requires_grad_()


@pytest.fixture
def tile(generator: torch.Generator) -> Tensor:
    """Two tiles, with an open cell, in microsiemens."""
    g = tiles(2, 2, 3, generator=generator) / MICRO
    g[0, 1, 2] = 0
    return g.requires_grad_()


@pytest.mark.parametrize("cell", [LinearCell(), SinhCell(), SinhCell(v0=0.1)], ids=str)
@pytest.mark.parametrize("wires", [Wires(500.0, 100.0, 2.5, 2.5), Wires(0.0, 0.0, 30.0, 0.0)], ids=str)
def test_in_drives_and_conductances(cell: Cell, wires: Wires, drive: Tensor, tile: Tensor) -> None:
    assert gradcheck(lambda v, g: currents(v, g, cell, wires), (drive, tile))


def test_where_wires_dominate(generator: torch.Generator) -> None:
    # Cells of 10 kOhm behind 20 kOhm: the adjoint is far from its first guess.
    wires = Wires(20e3, 10e3, 1e3, 2e3)
    v = drives(3, generator=generator).requires_grad_()
    g = (10 * tiles(3, 4, generator=generator) / MICRO).requires_grad_()
    assert gradcheck(lambda v, g: currents(v, g, SinhCell(), wires), (v, g))


def test_in_cell_voltages(drive: Tensor, tile: Tensor) -> None:
    wires = Wires(500.0, 100.0, 2.5, 2.5)

    def voltages(v: Tensor, g: Tensor) -> Tensor:
        return solve_cells(v, g * MICRO, SinhCell(), wires, tol=TIGHT).cell_voltages

    assert gradcheck(voltages, (drive, tile))


def test_in_wires_alone(drive: Tensor, tile: Tensor) -> None:
    # In kilo-ohm; the row wire is per tile, the sink per drive, the others for all.
    scalars = [torch.tensor(x, dtype=torch.float64) for x in (0.5, [[0.1], [0.2]], [0.03, 0.05], 0.02)]
    inputs = tuple(x.requires_grad_() for x in scalars)
    v, g = drive.detach(), tile.detach()
    assert gradcheck(lambda *r: currents(v, g, SinhCell(), Wires(*(1e3 * x for x in r))), inputs)


def test_in_the_voltage_scale_of_the_cell(drive: Tensor, tile: Tensor) -> None:
    v, g, wires = drive.detach(), tile.detach(), Wires(500.0, 100.0, 2.5, 2.5)
    v0 = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v0: currents(v, g, SinhCell(v0=v0), wires), (v0,))


@pytest.mark.parametrize("kind", ["conductances", "wires"])
def test_of_the_effective_conductance(kind: str, tile: Tensor) -> None:
    ohms = torch.tensor([[500.0, 0.1], [100.0, 50.0], [2.5, 30.0], [4.0, 20.0]], dtype=torch.float64)
    if kind == "conductances":
        wires = Wires(*ohms)
        assert gradcheck(lambda g: effective_conductance(g * MICRO, wires) / MICRO, (tile,))
    else:
        kilo = tuple((row / 1e3).requires_grad_() for row in ohms)
        g = tile.detach() * MICRO
        assert gradcheck(lambda *r: effective_conductance(g, Wires(*(1e3 * x for x in r))) / MICRO, kilo)


def test_of_cancelling_cotangents(tile: Tensor) -> None:
    # The adjoint of equal rows under opposite weights carries no column current at all.
    g = torch.full((2, 3), 5e-6, dtype=torch.float64)
    v = torch.tensor([0.2, 0.2], dtype=torch.float64, requires_grad=True)
    u = solve_cells(v, g, SinhCell(), Wires(500.0, 100.0, 2.5, 0.0)).cell_voltages
    (slope,) = torch.autograd.grad((u[0] - u[1]).sum(), v)
    torch.testing.assert_close(slope[0], -slope[1])


def test_crossbar_methods_agree_on_gradients(generator: torch.Generator) -> None:
    xbar = Crossbar(3, 4, cell=LinearCell())
    slopes = []
    for method in ("native", "linear"):
        v = drives(3, generator=generator.manual_seed(1)).requires_grad_()
        g = tiles(3, 4, generator=generator).requires_grad_()
        slopes.append(torch.autograd.grad(xbar.solve(v, g, method=method).square().sum(), (v, g)))
    for native, linear in zip(*slopes, strict=True):
        torch.testing.assert_close(native, linear, rtol=1e-8, atol=0)


def test_no_graph_without_a_need(drive: Tensor, tile: Tensor) -> None:
    xbar = Crossbar(2, 3)
    assert not xbar.solve(drive.detach(), tile.detach() * MICRO).requires_grad
    with torch.no_grad():
        assert not xbar.solve(drive, tile * MICRO).requires_grad


@pytest.mark.parametrize("vectors", [1, 9], ids=["one vector", "shared elimination"])
def test_parameters_of_a_cell_within_a_cell_one_value_per_tile(vectors: int) -> None:
    """Against finite differences, and against one crossbar per tile."""
    generator = torch.Generator().manual_seed(0)
    v = 0.5 * torch.rand(2, vectors, 4, generator=generator, dtype=torch.float64)
    g = 1e-4 * (0.2 + torch.rand(2, 1, 4, 3, generator=generator, dtype=torch.float64))
    v0 = torch.tensor([[0.25], [0.35]]).double().requires_grad_()
    kiloohm = torch.tensor([[1.0], [2.0]]).double().requires_grad_()
    wires = Wires(500.0, 100.0, 20.0, 30.0)

    def milliampere(v0: Tensor, kiloohm: Tensor) -> Tensor:
        cell = OneTransistorOneResistor(SinhCell(v0=v0), r_access=kiloohm * 1e3)
        return solve_cells(v, g, cell, wires, tol=1e-13).currents * 1e3

    # A random weight for each current, so that the backward pass is taken twice and not for every current.
    weights = torch.randn(2, vectors, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *scales: (weights * milliampere(*scales)).sum((1, 2)), (v0, kiloohm), eps=1e-5, atol=1e-7
    )
    both = milliampere(v0, kiloohm)
    for k, (own_v0, own_r) in enumerate([(0.25, 1e3), (0.35, 2e3)]):
        cell = OneTransistorOneResistor(SinhCell(own_v0), r_access=own_r)
        alone = solve_cells(v[k], g[k], cell, wires, tol=1e-13).currents * 1e3
        assert torch.allclose(both[k], alone, rtol=1e-10)
