"""The linear transfer matrix against Kirchhoff's law at every node, its symmetries, gradients and memory."""

import numpy as np
import pytest
import torch
from circuits import WIRINGS, error, tiles
from kirchhoff import kirchhoff_currents
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from geniex.cells import LinearCell, OneTransistorOneResistor, SinhCell, TabulatedCell
from geniex.circuit import Crossbar, Wires
from geniex.circuit.transfer_matrix import effective_conductance
from geniex.errors import InputError
from geniex.workspace import workspace_limit

EXACT = 1e-10
"""Both sides carry rounding errors of ill-conditioned systems, the oracle's nodal one the larger."""


def oracle(crossbar: Crossbar, g: Tensor) -> Tensor:
    return torch.from_numpy(kirchhoff_currents(crossbar, np.eye(crossbar.rows), g.numpy()))


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 13), (13, 1), (6, 11), (11, 5), (12, 12)], ids=str)
def test_obeys_kirchhoff_in_every_shape(shape: tuple[int, int], wiring: str, generator: torch.Generator) -> None:
    xbar = Crossbar(*shape, cell=LinearCell(), **WIRINGS[wiring])
    g = tiles(*shape, generator=generator)
    g[0, -1] = 0
    assert error(xbar.effective_conductance(g), oracle(xbar, g)) < 0.1 * EXACT


@pytest.mark.parametrize("wiring", [*WIRINGS, "hard"])
def test_conductances_over_six_decades_and_open_cells(wiring: str, generator: torch.Generator) -> None:
    resistances = WIRINGS.get(wiring, {"r_source": 1e5, "r_sink": 1e5, "r_wire": 1e3})
    xbar = Crossbar(9, 14, cell=LinearCell(), **resistances)
    g = 10 ** (-8 + 6 * torch.rand(9, 14, dtype=torch.float64, generator=generator))
    g[torch.rand(9, 14, generator=generator) < 0.1] = 0
    g[:, 5], g[3] = 0, 0
    response = xbar.effective_conductance(g)
    assert error(response, oracle(xbar, g)) < EXACT
    assert not response[:, 5].any()
    assert not response[3].any()
    assert (response >= 0).all(), "no row can lower the current of a column in a network of resistors"


@pytest.mark.parametrize("shape", [(512, 3), (2, 512), (100, 33)], ids=str)
def test_long_lines(shape: tuple[int, int], generator: torch.Generator) -> None:
    xbar = Crossbar(*shape, r_source=1e3, r_sink=5e2, r_wire=10.0, cell=LinearCell())
    g = 4 * tiles(*shape, generator=generator)
    v = torch.rand(2, shape[0], dtype=torch.float64, generator=generator)
    expected = torch.from_numpy(kirchhoff_currents(xbar, v.numpy(), g.numpy()))
    assert error(v @ xbar.effective_conductance(g), expected) < EXACT


def test_lengthening_the_lines_by_open_cells_changes_nothing(generator: torch.Generator) -> None:
    # Cells beyond the last column and above the first row hang on wires that carry no current.
    g = tiles(7, 9, generator=generator)
    longer = torch.nn.functional.pad(g, (0, 8, 5, 0))
    wires = Wires(500.0, 100.0, 2.5, 4.0)
    response = effective_conductance(longer, wires)
    torch.testing.assert_close(response[5:, :9], effective_conductance(g, wires), rtol=1e-13, atol=0)
    assert not response[:5].any()


@pytest.mark.parametrize("most", [11_000, 1], ids=["two tiles", "one tile"])
def test_chunks_do_not_change_results(most: int, generator: torch.Generator) -> None:
    g = tiles(5, 7, 6, generator=generator).requires_grad_()
    wires = Wires(torch.linspace(0, 500, 5).double().requires_grad_(), torch.tensor(50.0, requires_grad=True), 2.0, 3.0)
    inputs = (g, wires.r_source, wires.r_sink)
    whole = effective_conductance(g, wires)
    slopes = torch.autograd.grad((1e6 * whole).square().sum(), inputs)
    with workspace_limit(most):
        parts = effective_conductance(g, wires)
        by_parts = torch.autograd.grad((1e6 * parts).square().sum(), inputs)
    torch.testing.assert_close(parts, whole, rtol=1e-13, atol=0)
    for part, slope in zip(by_parts, slopes, strict=True):
        torch.testing.assert_close(part, slope, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("ohms", [(0.5, 0.1, 0.03, 0.02), (0.0, 0.0, 0.0, 0.0), (20.0, 10.0, 1.0, 2.0)], ids=str)
def test_gradients_and_their_gradients(ohms: tuple[float, ...], generator: torch.Generator) -> None:
    # In microsiemens and kilo-ohm; slopes are finite where a resistance is zero, from which steps of
    # finite differences lead to slightly negative ones.
    micro = tiles(2, 2, 3, generator=generator) * 1e6
    micro[0, 1, 2] = 0
    inputs = (micro.requires_grad_(), *(torch.tensor(r, dtype=torch.float64, requires_grad=True) for r in ohms))

    def response(micro: Tensor, *kilo: Tensor) -> Tensor:
        return effective_conductance(micro / 1e6, Wires(*(1e3 * r for r in kilo))) * 1e6

    assert gradcheck(response, inputs)
    assert gradgradcheck(response, inputs)


def test_second_gradients_across_chunks(generator: torch.Generator) -> None:
    micro = (tiles(3, 2, 3, generator=generator) * 1e6).requires_grad_()
    source = torch.tensor([0.5, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    sink = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def response(micro: Tensor, source: Tensor, sink: Tensor) -> Tensor:
        return effective_conductance(micro / 1e6, Wires(1e3 * source, 1e3 * sink, 3.0, 5.0)) * 1e6

    with workspace_limit(1):
        assert gradgradcheck(response, (micro, source, sink))


def test_the_record_for_the_backward_pass_is_bounded(generator: torch.Generator) -> None:
    """Kept within a budget, else made again: fewer numbers held, the same gradients."""
    g = tiles(2, 16, 16, generator=generator).requires_grad_()
    weight = torch.rand(2, 16, 16, dtype=torch.float64, generator=generator)
    grads, held = [], []
    for most in (1 << 40, 1):
        saved: list[int] = []
        count = lambda x, saved=saved: saved.append(x.numel()) or x  # noqa: E731
        with workspace_limit(most), torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            response = effective_conductance(g, Wires(500.0, 100.0, 2.5, 2.5))
        grads += torch.autograd.grad((weight * response).sum(), g)
        held.append(sum(saved))
    torch.testing.assert_close(*grads, rtol=1e-12, atol=0)
    assert held[1] <= g.numel() + 4 < held[0] <= 600 * g.numel()


def test_access_devices_count_as_a_series_pair(generator: torch.Generator) -> None:
    g = tiles(3, 4, generator=generator)
    pair = Crossbar(3, 4, cell=OneTransistorOneResistor(SinhCell(), r_access=2e4))
    alone = Crossbar(3, 4, cell=LinearCell())
    torch.testing.assert_close(pair.effective_conductance(g), alone.effective_conductance(g / (1 + 2e4 * g)))
    v = 1e-5 * torch.rand(3, dtype=torch.float64, generator=generator)
    # So far below v0 the array is its linear response, to (v / v0)^2.
    assert error(pair.solve(v, g, method="linear"), pair.solve(v, g, tol=1e-12)) < 1e-8


def test_measured_cells_refuse_voltages_beyond_their_table() -> None:
    # Drives of both signs: a cell between two rows' drives may see their difference.
    xbar = Crossbar(2, 1, cell=TabulatedCell(voltages=(-0.3, 0.0, 0.3), currents=((-3e-6, 0.0, 3e-6),)))
    g = torch.full((2, 1), 1e-5, dtype=torch.float64)
    xbar.solve(torch.tensor([0.2, 0.1]).double(), g)
    for solve in (xbar.solve, xbar.operating_point):
        with pytest.raises(InputError, match=r"voltages: got up to 0\.4 V across a cell"):
            solve(torch.tensor([0.2, -0.2]).double(), g)
