"""The expansion against the exact circuit, in the limits where it is exact and in between."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck

from geniex.cells import Cell, Level1Mosfet, LinearCell, OneTransistorOneResistor, SinhCell, TabulatedCell
from geniex.circuit import Crossbar, Wires, nf_rmse, shared_matmul
from geniex.circuit.solve.ladder import line_resistance
from geniex.emulator import SurrogateEmulator
from geniex.errors import CheckpointError, InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.surrogate import Circuit, GeniexMLP, PhysicsSurrogate, load_surrogate, save_surrogate

WINDOW = ConductanceWindow(100e3, 6.0)
TRANSISTOR = OneTransistorOneResistor(
    SinhCell(), mosfet=Level1Mosfet(gate_voltage=2.0, width_over_length=4.0, threshold=0.5, transconductance=1e-4)
)
PAIR = OneTransistorOneResistor(SinhCell(0.25), r_access=20e3)


def draw(crossbar: Crossbar, v_max: float, tiles: int = 3, vectors: int = 8) -> tuple[Tensor, Tensor]:
    """Four-bit tiles (tiles, 1, rows, cols) and inputs (tiles, vectors, rows), each of another sparsity."""
    generator = torch.Generator().manual_seed(crossbar.rows + crossbar.cols)
    codes = torch.randint(16, (tiles, 1, crossbar.rows, crossbar.cols), generator=generator)
    codes = codes * (torch.rand(codes.shape, generator=generator) < torch.linspace(0.2, 1, tiles)[:, None, None, None])
    inputs = torch.randint(16, (tiles, vectors, crossbar.rows), generator=generator)
    inputs = inputs * (torch.rand(inputs.shape, generator=generator) < torch.linspace(0.2, 1, vectors)[:, None])
    return WINDOW.to_conductance(codes, 16, dtype=torch.float64), inputs.double() / 15 * v_max


def surrogate(crossbar: Crossbar, v_max: float, **settings: Any) -> PhysicsSurrogate:
    return PhysicsSurrogate(crossbar, WINDOW, v_max, **settings)


@pytest.mark.parametrize("cell", [LinearCell(), OneTransistorOneResistor(LinearCell(), r_access=1e4)], ids=str)
def test_linear_cells_give_the_linear_array(cell: Cell) -> None:
    crossbar = Crossbar(12, 9, r_wire=5.0, cell=cell)
    g, v = draw(crossbar, 0.5)
    exact = shared_matmul(v, crossbar.effective_conductance(g))
    torch.testing.assert_close(surrogate(crossbar, 0.5)(v, g), exact, rtol=1e-10, atol=0)


@pytest.mark.parametrize("cell", [SinhCell(0.25), PAIR, TRANSISTOR], ids=str)
def test_bit_lines_without_resistance_are_exact(cell: Cell) -> None:
    """Word lines then do not see each other; what is left are the fits' errors."""
    crossbar = Crossbar(10, 14, r_sink=0.0, r_wire_row=8.0, r_wire_col=0.0, cell=cell)
    g, v = draw(crossbar, 0.5)
    exact = crossbar.solve(v, g)
    assert ((surrogate(crossbar, 0.5)(v, g) - exact).abs() / exact.abs().amax()).max() < 1e-4


def test_no_wires_are_the_cells_themselves_and_no_voltage_is_no_current() -> None:
    crossbar = Crossbar(6, 5, r_source=0.0, r_sink=0.0, r_wire=0.0)
    g, v = draw(crossbar, 0.5)
    exact = (g * 0.25 * torch.sinh(v[..., None] / 0.25)).sum(-2)
    torch.testing.assert_close(surrogate(crossbar, 0.5)(v, g), exact, rtol=3e-5, atol=0)
    assert (surrogate(Crossbar(6, 5), 0.5)(0 * v, g) == 0).all()


@pytest.mark.parametrize(("name", "bars"), [("physics", (0.002, 0.01)), ("physics-fast", (0.01, 0.05))])
def test_shipped_ones_on_the_nominal_circuit(name: str, bars: tuple[float, float]) -> None:
    """Percent points of NF at 0.25 V and 0.5 V; the network of GENIEx reports 0.25 and 0.7."""
    crossbar = Crossbar(64, 64)
    for v_max, bar in zip((0.25, 0.5), bars, strict=True):
        g, v = draw(crossbar, v_max, tiles=2)
        model = load_surrogate(name).bound(crossbar, WINDOW, v_max)
        assert nf_rmse(shared_matmul(v, g), crossbar.solve(v, g, tol=1e-7), model(v, g)) < bar


@pytest.mark.parametrize("cell", [SinhCell(0.3), PAIR], ids=str)
def test_a_harsh_oblong_array(cell: Cell) -> None:
    """The linear array alone is off by percents; each part of the expansion brings it nearer."""
    crossbar = Crossbar(40, 24, r_source=600.0, r_sink=400.0, r_wire_row=4.0, r_wire_col=6.0, cell=cell)
    g, v = draw(crossbar, 0.5)
    ideal, exact = shared_matmul(v, cell.small_signal(g)), crossbar.solve(v, g)
    linear = nf_rmse(ideal, exact, crossbar.solve(v, g, method="linear"))
    stages = [
        nf_rmse(ideal, exact, surrogate(crossbar, 0.5, powers=powers, moments=moments)(v, g))
        for powers, moments in (((4,), 0), ((4, 3), 0), ((4, 3, 2), 0), ((4, 3, 2, 1), 1), ((4, 3, 2, 1), 3))
    ]
    assert all(later < earlier for earlier, later in pairwise(stages))
    assert stages[-1] < linear / 30


@pytest.mark.parametrize("rows", [12, 1])
def test_a_column_of_cells_that_are_off_beside_driven_ones(rows: int) -> None:
    """Its current is what its neighbours' rises push back through undriven word lines."""
    crossbar = Crossbar(rows, 8, r_source=800.0, r_sink=300.0, r_wire_row=1.0, r_wire_col=8.0)
    g = torch.full((rows, 8), 1 / 12e3, dtype=torch.float64)
    g[:, 3] = g[::2, 1] = 1 / 600e3
    v = 0.5 * (torch.arange(rows) % 3 == 0).double()
    exact = crossbar.solve(v, g)
    errors = [(surrogate(crossbar, 0.5, moments=moments)(v, g) - exact).abs() / exact for moments in (0, 3)]
    assert errors[1][3] < errors[0][3] / 8
    assert errors[1].max() < 3e-3


@pytest.mark.parametrize("shape", [(1, 1), (9, 1), (1, 9)])
def test_arrays_of_one_line(shape: tuple[int, int]) -> None:
    """No column has others beside it, or no bit line a profile."""
    crossbar = Crossbar(*shape, r_source=600.0, r_sink=800.0, r_wire=8.0)
    g, v = draw(crossbar, 0.5)
    exact = crossbar.solve(v, g)
    currents = surrogate(crossbar, 0.5)(v, g)
    assert ((currents - exact).abs() <= 2e-4 * exact.abs().amax()).all()


def test_open_columns_and_rows_carry_nothing() -> None:
    crossbar = Crossbar(8, 6)
    g, v = draw(crossbar, 0.5, tiles=2)
    g[..., 2], g[..., 5, :], g[1] = 0, 0, 0
    g.requires_grad_()
    for dtype in (torch.float32, torch.float64):
        currents = surrogate(crossbar, 0.5)(v.to(dtype), g.to(dtype))
        assert (currents[..., 2] == 0).all()
        assert (currents[1] == 0).all()
        assert torch.autograd.grad(currents.sum(), g)[0].isfinite().all()


def test_what_a_cell_sees_of_its_word_line() -> None:
    """Against the line's node equations, with the cell taken out of them."""
    g, _ = draw(Crossbar(2, 6), 0.5, tiles=1)
    g = g[:, 0] * 100
    seen = line_resistance(g, Wires(300.0, 0.0, 20.0, 0.0))
    segments = torch.diag(torch.tensor([1 / 300] + [1 / 20] * 5, dtype=torch.float64))
    steps = torch.eye(6, dtype=torch.float64) - torch.eye(6, dtype=torch.float64).roll(1, 0).tril()
    for j in range(6):
        cells = torch.diag_embed(g * (torch.arange(6) != j))
        alone = torch.linalg.inv(steps.T @ segments @ steps + cells)[..., j, j]
        torch.testing.assert_close(seen[..., j], alone, rtol=1e-12, atol=0)


def test_moments_need_the_powers_that_they_are_derivatives_of() -> None:
    with pytest.raises(InputError, match="powers"):
        surrogate(Crossbar(4, 4), 0.5, powers=(3, 2), moments=1)


@pytest.mark.slow
def test_gradients_through_program_and_read() -> None:
    crossbar = Crossbar(4, 3, r_source=3e3, r_sink=2e3, r_wire=200.0)
    g, v = draw(crossbar, 0.5, tiles=2, vectors=2)
    micro, v = (1e6 * g).requires_grad_(), (v + 0.01).requires_grad_()
    model = surrogate(crossbar, 0.5)
    assert gradcheck(lambda v, micro: 1e6 * model(v, 1e-6 * micro), (v, micro), atol=1e-5)


def test_binary_inputs_collapse_to_the_same_currents() -> None:
    crossbar = Crossbar(16, 16)
    g, v = draw(crossbar, 0.25)
    v = 0.25 * (v > 0.1).double()
    general, binary = (surrogate(crossbar, 0.25, binary=b) for b in (False, True))
    torch.testing.assert_close(binary(v, g), general(v, g), rtol=1e-10, atol=0)
    assert binary.program(g).expansion.alike[0].matrix.shape[-2] == 16


def test_a_circuit_for_each_tile() -> None:
    g, v = draw(Crossbar(8, 8), 0.3)
    ohm = torch.tensor([[100.0, 0.0, 1.0, 4.0], [900.0, 500.0, 0.0, 8.0], [0.0, 50.0, 6.0, 0.0]], dtype=torch.float64)
    v0, top = torch.tensor([0.25, 0.4, 0.3]).double(), torch.tensor([0.3, 0.5, 0.35]).double()
    model = surrogate(Crossbar(8, 8), 0.3)
    many = model.program(g[:, 0], Circuit(Wires(*ohm.T), SinhCell(v0), top))
    currents = model.read(many, v.transpose(0, 1), top[:, None]).transpose(0, 1)
    for k, (source, sink, row, col) in enumerate(ohm.tolist()):
        alone = Crossbar(8, 8, source, sink, r_wire_row=row, r_wire_col=col, cell=SinhCell(v0[k].item()))
        expected = surrogate(alone, top[k].item())(v[k], g[k])
        torch.testing.assert_close(currents[k], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("changes", "v_max", "named"),
    [
        ({"r_source": 2e3}, 0.25, "r_source = 2000 ohm lies outside the validated range of 0 to 1000 ohm"),
        ({"r_wire_col": 11.0}, 0.25, "r_wire_col = 11 ohm lies outside the validated range of 0 to 10 ohm"),
        ({"cell": SinhCell(0.1)}, 0.1, "v0 = 0.1 V lies outside the validated range of 0.2 to 0.5 V"),
        ({}, 0.6, "v_max / v0 = 2.4 lies outside the validated range of 0 to 2;"),
        (
            {"cell": TRANSISTOR},
            0.25,
            r"cell = OneTransistorOneResistor\(SinhCell\(v0 = 0.25 V\) behind a transistor of 1667 ohm\) lies",
        ),
    ],
)
def test_circuits_out_of_range_are_refused(changes: dict[str, Any], v_max: float, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        load_surrogate("physics").bound(Crossbar(8, 8).replace(**changes), WINDOW, v_max)


def test_a_warning_by_choice_and_tiles_that_hardly_conduct() -> None:
    crossbar = Crossbar(64, 64, r_source=1000.0, r_sink=1000.0, r_wire=10.0)
    g = torch.full((64, 64), 1e-4, dtype=torch.float64)
    with pytest.raises(CheckpointError, match="mean transmission"):
        surrogate(crossbar, 0.25).program(g)
    with pytest.warns(UserWarning, match="mean transmission"):
        surrogate(crossbar, 0.25, outside="warn").program(g)


@pytest.mark.slow
def test_no_tensor_leaves_its_device() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = load_surrogate("physics").bound(Crossbar(6, 4), WINDOW, 0.25)
        g = torch.rand(2, 1, 6, 4, device="cuda")
        out = model.read(model.program(g), torch.rand(3, 6, device="cuda"))
    assert (out.device.type, tuple(out.shape), out.dtype) == ("cuda", (2, 3, 4), torch.float32)


def test_one_emulator_for_any_crossbar() -> None:
    crossbar = Crossbar(20, 12, r_wire=1.0)
    g, v = draw(crossbar, 0.25)
    emulator = SurrogateEmulator("physics-fast", crossbar)
    exact = crossbar.solve(v, g)
    assert ((emulator.read(emulator.program(g), v) - exact).abs() / exact.abs().amax()).max() < 1e-3


def test_a_column_current_solves_its_own_equation() -> None:
    """I = sum_i D_0(w) + I sum_i D_1(w), where no higher power of I counts: exactly, not to first order."""
    crossbar = Crossbar(12, 12, r_source=600.0, r_sink=1000.0, r_wire=8.0)
    g, v = draw(crossbar, 0.5)
    model = surrogate(crossbar, 0.5, powers=(4, 3), moments=0)
    array = model.program(g)
    none, one = (
        sum(
            shared_matmul((v / 0.5) ** power, matrix)
            for power, matrix in zip(term.powers, term.matrix.unflatten(-2, (-1, 12)).unbind(-3), strict=True)
        )
        for term in array.expansion.alike
    )
    current = model.read(array, v) / 0.5
    torch.testing.assert_close(current, none + current * one, rtol=1e-12, atol=0)


@pytest.mark.slow
def test_threads_program_what_one_thread_does() -> None:
    surrogate = load_surrogate("physics-fast").bound(Crossbar(64, 64), WINDOW, 0.25)
    tiles = WINDOW.g_off + torch.rand(90, 64, 64) * (WINDOW.g_on - WINDOW.g_off)
    voltages, before = torch.rand(5, 1, 64) / 4, torch.get_num_threads()
    currents = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.no_grad():
                currents.append(surrogate.read(surrogate.program(tiles), voltages))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(*currents, rtol=1e-5)


def test_a_refusal_is_one_line_whatever_the_cell() -> None:
    """Tables of measured points are told by their number; all that is out of range is told at once."""
    volts = torch.linspace(0, 0.5, 101, dtype=torch.float64)
    states = tuple((10**k * 1e-7 * torch.sinh(4 * volts)).tolist() for k in range(5))
    measured = TabulatedCell(volts.tolist(), states)
    assert measured.short == "TabulatedCell(5 states, 0 to 0.5 V)"
    assert measured.description == "tabulated cells (5 states, 0 to 0.5 V)"
    with pytest.raises(CheckpointError) as caught:
        SurrogateEmulator("physics", Crossbar(8, 8, r_wire=20.0, cell=measured))
    assert str(caught.value) == (
        "surrogate physics: cell = TabulatedCell(5 states, 0 to 0.5 V) lies outside the validated range of sinh and"
        " linear cells, alone or behind a resistance, and r_wire_row = 20 ohm lies outside the validated range of 0 to"
        " 10 ohm, and r_wire_col = 20 ohm lies outside the validated range of 0 to 10 ohm; use CircuitEmulator, which"
        " is exact everywhere, or SurrogateEmulator(..., outside='warn')"
    )
    trained = GeniexMLP(Crossbar(8, 8), WINDOW, 0.25, hidden=4)
    with pytest.raises(
        CheckpointError,
        match=r"trained for cell=SinhCell\(v0 = 0.25 V\) and not TabulatedCell\(5 states, 0 to 0.5 V\):",
    ):
        SurrogateEmulator(trained, Crossbar(8, 8, cell=measured))


def test_a_warning_stands_in_for_the_refusal_by_choice() -> None:
    crossbar = Crossbar(16, 12, r_wire=12.0)
    with pytest.raises(CheckpointError, match=r"outside='warn'"):
        SurrogateEmulator("physics", crossbar)
    with pytest.warns(UserWarning, match=r"r_wire_row = 12 ohm lies outside"):
        emulator = SurrogateEmulator("physics", crossbar, outside="warn")
    with pytest.warns(UserWarning, match=r"r_wire_row = 12 ohm lies outside"):
        bound = emulator.bind(Architecture(tile=(16, 12), v_max=0.25))
    assert bound.bind(Architecture(tile=(16, 12), v_max=0.25)) is bound  # known, and not told again
    g, v = draw(crossbar, 0.25)
    exact = crossbar.solve(v, g)
    assert ((bound.read(bound.program(g), v) - exact).abs() / exact.abs().amax()).max() < 1e-3
    inside = SurrogateEmulator("physics", Crossbar(16, 12), outside="warn")
    with pytest.raises(CheckpointError, match="r_wire_row = 12 ohm"):
        SurrogateEmulator(inside.surrogate, crossbar, outside="raise")
    with pytest.raises(InputError, match=r"outside: got 'warn'; GeniexMLP has no such choice"):
        SurrogateEmulator(GeniexMLP(Crossbar(8, 8), WINDOW, 0.25, hidden=4), Crossbar(8, 8), outside="warn")
    for wrong in (
        lambda: SurrogateEmulator("physics", crossbar, outside="ignore"),  # type: ignore[arg-type]
        lambda: PhysicsSurrogate(crossbar, WINDOW, 0.25, outside="ignore"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=r"outside: got 'ignore'; it must be one of 'raise', 'warn'"):
            wrong()


def test_a_surrogate_whose_circuit_was_never_found_in_range_is_checked() -> None:
    outside = PhysicsSurrogate(Crossbar(8, 8, r_wire=20.0), WINDOW, 0.25)
    with pytest.raises(CheckpointError, match="r_wire_row"):
        SurrogateEmulator(outside, outside.crossbar)


def test_a_choice_outside_the_range_is_saved(tmp_path: Path) -> None:
    chosen = PhysicsSurrogate(Crossbar(8, 8, r_wire=20.0), WINDOW, 0.25, outside="warn")
    assert load_surrogate(save_surrogate(chosen, tmp_path / "outside")).outside == "warn"  # type: ignore[attr-defined]
