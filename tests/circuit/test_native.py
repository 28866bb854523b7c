"""The native and linear solvers against Kirchhoff's law, closed forms and the symmetries of the circuit."""

import pytest
import torch
from circuits import WIRINGS, drives, error, tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from kirchhoff import kirchhoff_currents

from geniex.cells import Cell, LinearCell, SinhCell
from geniex.circuit import Crossbar, Wires, shared_matmul, solve_cells
from geniex.workspace import workspace_limit

TIGHT = 1e-12
"""Tolerance asked of the solver; what it reaches is bounded by rounding, so tests allow 10 times that."""


def nodal(crossbar: Crossbar, voltages: torch.Tensor, conductances: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(kirchhoff_currents(crossbar, voltages.numpy(), conductances.numpy()))


@pytest.mark.parametrize("cell", [LinearCell(), SinhCell(), SinhCell(v0=0.1)], ids=str)
@pytest.mark.parametrize("wiring", WIRINGS)
def test_obeys_kirchhoff(wiring: str, cell: Cell, generator: torch.Generator) -> None:
    for rows, cols in ((6, 6), (3, 8), (9, 2)):
        xbar = Crossbar(rows, cols, cell=cell, **WIRINGS[wiring])
        v, g = drives(2, rows, generator=generator), tiles(rows, cols, generator=generator)
        g[0, 1] = 0
        expected = nodal(xbar, v, g)
        assert error(xbar.solve(v, g, method="native", tol=TIGHT), expected) < 10 * TIGHT
        # The elimination has no tolerance: its rounding errors are those of Cholesky factors.
        if cell.is_linear:
            assert error(xbar.solve(v, g, method="linear"), expected) < 10 * TIGHT


def test_effective_conductance_holds_the_response_to_each_row_alone(generator: torch.Generator) -> None:
    xbar = Crossbar(5, 7, r_wire_row=7.0, r_wire_col=0.5, cell=LinearCell())
    g = tiles(5, 7, generator=generator)
    unit = torch.eye(5, dtype=torch.float64)
    assert error(xbar.effective_conductance(g), nodal(xbar, unit, g)) < 10 * TIGHT


def test_linear_method_takes_sinh_cells_at_their_small_signal_conductance(generator: torch.Generator) -> None:
    v, g = drives(5, generator=generator), tiles(5, 7, generator=generator)
    linear = Crossbar(5, 7, cell=LinearCell()).solve(v, g)
    assert torch.equal(Crossbar(5, 7).solve(v, g, method="linear"), linear)
    assert error(Crossbar(5, 7).solve(v, g), linear) > 1e-2
    # Far below v0 a sinh is its slope, with an error of (u / v0)^2 / 6.
    assert error(Crossbar(5, 7).solve(1e-4 * v, g, tol=TIGHT), 1e-4 * linear) < 1e-7


@pytest.mark.parametrize("method", ["native", "linear"])
def test_single_cell_is_a_voltage_divider(method: str) -> None:
    xbar = Crossbar(1, 1, r_source=300.0, r_sink=700.0, r_wire=50.0, cell=LinearCell())
    current = xbar.solve(
        torch.tensor([0.2], dtype=torch.float64), torch.tensor([[1e-4]], dtype=torch.float64), method=method
    )
    assert current.item() == pytest.approx(0.2 / (300 + 1e4 + 700), rel=1e-12)


@pytest.mark.parametrize("method", ["native", "linear"])
def test_single_row_with_one_closed_cell_is_a_series_chain(method: str) -> None:
    xbar = Crossbar(1, 4, r_source=300.0, r_sink=700.0, r_wire_row=50.0, r_wire_col=9.0, cell=LinearCell())
    for col in range(4):
        g = torch.zeros(1, 4, dtype=torch.float64)
        g[0, col] = 1e-4
        current = xbar.solve(torch.tensor([0.2], dtype=torch.float64), g, method=method)
        expected = torch.zeros(4, dtype=torch.float64)
        expected[col] = 0.2 / (300 + 50 * col + 1e4 + 700)
        torch.testing.assert_close(current, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["native", "linear"])
def test_single_column_with_one_closed_cell_is_a_series_chain(method: str) -> None:
    xbar = Crossbar(4, 1, r_source=300.0, r_sink=700.0, r_wire_row=50.0, r_wire_col=9.0, cell=LinearCell())
    for row in range(4):
        g = torch.zeros(4, 1, dtype=torch.float64)
        g[row, 0] = 1e-4
        current = xbar.solve(torch.full((4,), 0.2, dtype=torch.float64), g, method=method)
        assert current.item() == pytest.approx(0.2 / (300 + 1e4 + 9 * (3 - row) + 700), rel=1e-12)


def test_zero_wires_is_ideal(generator: torch.Generator) -> None:
    v, g = drives(3, 5, generator=generator), tiles(5, 7, generator=generator)
    ideal = {"r_source": 0.0, "r_sink": 0.0, "r_wire": 0.0}
    torch.testing.assert_close(Crossbar(5, 7, cell=LinearCell(), **ideal).solve(v, g), v @ g, rtol=1e-14, atol=0)
    sinh = 0.25 * torch.sinh(v / 0.25)
    torch.testing.assert_close(Crossbar(5, 7, **ideal).solve(v, g), sinh @ g, rtol=1e-14, atol=0)


@pytest.mark.parametrize("cell", [LinearCell(), SinhCell()], ids=str)
def test_current_is_conserved(cell: Cell, generator: torch.Generator) -> None:
    xbar = Crossbar(5, 7, cell=cell)
    v, g = drives(5, generator=generator), tiles(5, 7, generator=generator)
    solution = solve_cells(v, g, cell, xbar.wires, tol=TIGHT)
    current = cell.current(solution.cell_voltages, g)
    # Around the loop driver, row, cell, column, ground: what the wires drop and the cell must add up to V.
    drop = xbar.wires.drop(current)
    torch.testing.assert_close(drop + solution.cell_voltages, v[:, None].expand(5, 7), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(current.sum(0), solution.currents, rtol=1e-14, atol=0)


@pytest.mark.parametrize("method", ["native", "linear"])
def test_superposition_holds_for_linear_cells(method: str, generator: torch.Generator) -> None:
    xbar = Crossbar(5, 7, cell=LinearCell())
    v, g = drives(2, 5, generator=generator), tiles(5, 7, generator=generator)
    one, two = xbar.solve(v, g, method=method, tol=TIGHT)
    both = xbar.solve(2 * v[0] - 3 * v[1], g, method=method, tol=TIGHT)
    assert error(2 * one - 3 * two, both) < 10 * TIGHT


def test_reciprocity(generator: torch.Generator) -> None:
    # Driving the columns where they are sensed and sensing the rows where they are driven: the same matrix,
    # transposed. As a crossbar, that is the array mirrored about its anti-diagonal with the wires exchanged.
    xbar = Crossbar(5, 7, r_source=300, r_sink=80, r_wire_row=7, r_wire_col=2, cell=LinearCell())
    back = Crossbar(7, 5, r_source=80, r_sink=300, r_wire_row=2, r_wire_col=7, cell=LinearCell())
    g = tiles(5, 7, generator=generator)
    mirrored = back.effective_conductance(g.flip(0, 1).mT.contiguous())
    torch.testing.assert_close(mirrored.flip(0, 1).mT, xbar.effective_conductance(g), rtol=1e-12, atol=0)


def test_rows_are_exchangeable_without_column_wire(generator: torch.Generator) -> None:
    v, g = drives(5, generator=generator), tiles(5, 7, generator=generator)
    order = torch.randperm(5, generator=generator)
    same = Crossbar(5, 7, r_wire_col=0.0)
    assert error(same.solve(v[order], g[order], tol=TIGHT), same.solve(v, g, tol=TIGHT)) < 10 * TIGHT
    far = Crossbar(5, 7, r_wire_col=20.0)
    assert error(far.solve(v[order], g[order], tol=TIGHT), far.solve(v, g, tol=TIGHT)) > 1e-5


@pytest.mark.parametrize("cell", [LinearCell(), SinhCell()], ids=str)
@pytest.mark.parametrize("method", ["native", "linear"])
def test_no_drive_and_open_cells_carry_exactly_nothing(method: str, cell: Cell, generator: torch.Generator) -> None:
    xbar = Crossbar(5, 7, cell=cell)
    v, g = drives(5, generator=generator), tiles(5, 7, generator=generator)
    assert not xbar.solve(torch.zeros_like(v), g, method=method).any()
    assert not xbar.solve(v, torch.zeros_like(g), method=method).any()
    g[:, 3] = 0
    current = xbar.solve(v, g, method=method)
    assert current[3] == 0
    assert current.count_nonzero() == 6


def test_currents_change_sign_with_the_voltages(generator: torch.Generator) -> None:
    v, g = drives(4, 5, generator=generator), tiles(5, 7, generator=generator)
    torch.testing.assert_close(Crossbar(5, 7).solve(-v, g), -Crossbar(5, 7).solve(v, g), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_opposite_drives_of_equal_rows_cancel(dtype: torch.dtype) -> None:
    # No column carries a current that could hold the rounding errors of its cells to a relative tolerance.
    v = torch.tensor([0.21, -0.21] * 32, dtype=dtype)
    g = torch.full((64, 64), 3.3e-6, dtype=dtype)
    current = Crossbar(64, 64, r_wire_col=0.0).solve(v, g)
    assert current.abs().max() < 64 * torch.finfo(dtype).eps * 0.21 * 3.3e-6 * 64


sizes = st.integers(1, 4)


@settings(max_examples=25)
@given(
    rows=sizes, cols=sizes, dims=st.lists(st.tuples(sizes, st.booleans(), st.booleans()), max_size=3), data=st.data()
)
def test_broadcasting_equals_a_loop(
    rows: int, cols: int, dims: list[tuple[int, bool, bool]], data: st.DataObject
) -> None:
    # Each leading dimension belongs to the drives, the tiles or both; leading ones of size 1 may be left out.
    lead_v, lead_g = (
        [n if keep else 1 for n, keep in zip([d[0] for d in dims], mask, strict=True)]
        for mask in ([d[1] for d in dims], [d[2] for d in dims])
    )
    for lead in (lead_v, lead_g):
        while lead and lead[0] == 1 and data.draw(st.booleans()):
            lead.pop(0)
    generator = torch.Generator().manual_seed(0)
    v, g = drives(*lead_v, rows, generator=generator), tiles(*lead_g, rows, cols, generator=generator)
    lead = torch.broadcast_shapes(v.shape[:-1], g.shape[:-2])
    each_v = v.expand(*lead, rows).reshape(-1, rows)
    each_g = g.expand(*lead, rows, cols).reshape(-1, rows, cols)
    xbar = Crossbar(rows, cols)
    for method in ("native", "linear"):
        looped = torch.stack([xbar.solve(a, b, method=method) for a, b in zip(each_v, each_g, strict=True)])
        # The batch may run an iteration longer than one array: both keep the default tolerance of 1e-9.
        assert error(xbar.solve(v, g, method=method), looped.reshape(*lead, cols)) < 2e-9
    assert error(shared_matmul(v, g), torch.einsum("...i,...ij->...j", v.expand(*lead, rows), g)) < 1e-12


def test_accepts_views(generator: torch.Generator) -> None:
    xbar = Crossbar(5, 7)
    v, g = drives(5, 3, generator=generator), tiles(7, 5, generator=generator)
    strided = xbar.solve(v.mT, g.mT.expand(2, 1, 5, 7), tol=TIGHT)
    expected = xbar.solve(v.mT.contiguous(), g.mT.contiguous(), tol=TIGHT)
    assert error(strided, expected.expand(2, 3, 7)) < 10 * TIGHT
    assert error(xbar.effective_conductance(g.mT), xbar.effective_conductance(g.mT.contiguous())) < 10 * TIGHT


def test_wires_may_differ_per_tile(generator: torch.Generator) -> None:
    v, g = drives(3, 1, 5, generator=generator), tiles(2, 5, 7, generator=generator)
    wires = Wires(torch.tensor([0.0, 900.0]), torch.tensor([[10.0], [50.0], [0.0]]), 2.0, torch.tensor(3.0))
    batch = solve_cells(v, g, SinhCell(), wires, tol=TIGHT).currents
    for k in range(3):
        for t in range(2):
            xbar = Crossbar(
                5,
                7,
                r_source=float(wires.r_source[t]),
                r_sink=float(wires.r_sink[k, 0]),
                r_wire_row=2.0,
                r_wire_col=3.0,
            )
            assert error(batch[k, t], xbar.solve(v[k, 0], g[t], tol=TIGHT)) < 10 * TIGHT


@pytest.mark.parametrize("lead", [(5, 1), (1, 5), (4, 5)])
def test_chunks_do_not_change_results(lead: tuple[int, int], generator: torch.Generator) -> None:
    v, g = drives(lead[0], 1, 5, generator=generator), tiles(lead[1], 5, 7, generator=generator)
    source = torch.linspace(0, 500, lead[1]).double()
    whole = solve_cells(v, g, SinhCell(), Wires(source, 50.0, 2.0, 2.0), tol=TIGHT).currents
    for most in (9_000, 1):  # two instances at once, and one
        with workspace_limit(most):
            parts = solve_cells(v, g, SinhCell(), Wires(source, 50.0, 2.0, 2.0), tol=TIGHT).currents
        assert error(parts, whole) < 10 * TIGHT


@pytest.mark.parametrize(("lead_v", "lead_g"), [((0,), ()), ((2, 0), (2, 1)), ((), (0,)), ((3,), (0, 1))])
@pytest.mark.parametrize("method", ["native", "linear"])
def test_empty_batches_have_empty_results(method: str, lead_v: tuple[int, ...], lead_g: tuple[int, ...]) -> None:
    currents = Crossbar(3, 4).solve(torch.zeros(*lead_v, 3), torch.zeros(*lead_g, 3, 4), method=method)
    assert currents.shape == (*torch.broadcast_shapes(lead_v, lead_g), 4)


def test_single_precision_holds_its_tolerance(generator: torch.Generator) -> None:
    v = drives(4, 32, generator=generator, low=0.0)
    g = tiles(3, 1, 32, 32, generator=generator)
    for cell in (LinearCell(), SinhCell()):
        xbar = Crossbar(32, 32, cell=cell)
        exact = xbar.solve(v, g, tol=TIGHT)
        for method in ("native", "auto"):
            single = xbar.solve(v.float(), g.float(), method=method)
            assert single.dtype == torch.float32
            assert error(single, exact) < 1e-4


def test_tolerance_is_kept(generator: torch.Generator) -> None:
    xbar = Crossbar(32, 32)
    v, g = drives(4, 32, generator=generator), tiles(32, 32, generator=generator)
    exact = xbar.solve(v, g, tol=TIGHT)
    loose = error(xbar.solve(v, g, tol=1e-2), exact)
    assert 1e-9 < loose < 1e-2
    assert error(xbar.solve(v, g, tol=1e-9), exact) < 1e-9
