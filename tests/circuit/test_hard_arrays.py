"""Global convergence: every passive array is solved, or says which one was not and how far it got."""

from __future__ import annotations

import pytest
import torch
from kirchhoff import kirchhoff_currents
from rivals_and_bars.random_arrays import random_problems
from torch import Tensor

from geniex.cells import Cell, LinearCell, SinhCell
from geniex.circuit import Crossbar, Wires, solve_cells
from geniex.circuit.solve import anderson, newton
from geniex.circuit.solve.elimination import Elimination
from geniex.circuit.solve.fields import drop_, from_field, to_field, turn, turn_wires
from geniex.errors import ConvergenceError, ConvergenceWarning

HARD = {"r_source": 1000.0, "r_sink": 500.0, "r_wire": 10.0}


def error(actual: Tensor, expected: Tensor) -> float:
    floor = 1e-3 * expected.abs().amax(-1, keepdim=True)
    wrong = (actual - expected).abs()
    return float(torch.where(wrong == 0, 0, wrong / torch.maximum(expected.abs(), floor)).max())


def oracle(crossbar: Crossbar, voltages: Tensor, conductances: Tensor) -> Tensor:
    lead = torch.broadcast_shapes(voltages.shape[:-1], conductances.shape[:-2])
    v = voltages.expand(*lead, -1).reshape(-1, crossbar.rows)
    g = conductances.expand(*lead, -1, -1).reshape(-1, crossbar.rows, crossbar.cols)
    currents = [torch.from_numpy(kirchhoff_currents(crossbar, a.numpy(), b.numpy())) for a, b in zip(v, g, strict=True)]
    return torch.stack(currents).reshape(*lead, crossbar.cols)


def draw(
    crossbar: Crossbar, tiles: int, vectors: int, decades: float, v_max: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Voltages of either sign and conductances over ``decades`` below 1 mS, a tenth of the cells open."""
    generator = torch.Generator().manual_seed(seed)
    shape = (tiles, 1, crossbar.rows, crossbar.cols)
    g = 1e-3 * 10 ** (-decades * torch.rand(shape, generator=generator, dtype=torch.float64))
    g[torch.rand(shape, generator=generator) < 0.1] = 0
    v = v_max * (2 * torch.rand(tiles, vectors, crossbar.rows, generator=generator, dtype=torch.float64) - 1)
    return v, g


@pytest.mark.parametrize("vectors", [1, 9], ids=["one vector", "shared elimination"])
@pytest.mark.parametrize(
    ("rows", "cols", "wires"),
    [
        (1, 1, HARD),
        (7, 12, HARD),
        (16, 5, HARD | {"r_wire_row": 0.0}),
        (9, 9, HARD | {"r_wire_col": 0.0, "r_sink": 0.0}),
        (6, 20, {"r_source": 0.0, "r_sink": 0.0, "r_wire": 3.0, "r_wire_col": 50.0}),
        (1, 15, HARD),
        (15, 1, HARD),
    ],
)
@pytest.mark.parametrize("cell", [SinhCell(0.25), SinhCell(0.2), LinearCell()], ids=str)
def test_six_decades_of_conductance_and_two_volts(
    rows: int, cols: int, wires: dict[str, float], vectors: int, cell: Cell
) -> None:
    crossbar = Crossbar(rows, cols, cell=cell, **wires)
    v, g = draw(crossbar, 2, vectors, decades=6.0, v_max=2.0, seed=rows * cols)
    assert error(crossbar.solve(v, g, method="native", tol=1e-10), oracle(crossbar, v, g)) < 1e-9


@pytest.mark.parametrize("v_max", [0.5, 2.0])
def test_the_hard_array_of_the_benchmark(v_max: float) -> None:
    crossbar = Crossbar(64, 64, **HARD)
    generator = torch.Generator().manual_seed(0)
    g = (1 + 5 * torch.rand(1, 1, 64, 64, generator=generator, dtype=torch.float64)) / 150e3
    v = v_max * torch.rand(1, 17, 64, generator=generator, dtype=torch.float64)
    many = crossbar.solve(v, g)
    assert error(many[:, :2], oracle(crossbar, v[:, :2], g)) < 1e-9
    assert error(crossbar.solve(v[:, :1], g), many[:, :1]) < 1e-9


def test_a_hard_instance_does_not_spoil_easy_ones() -> None:
    crossbar = Crossbar(12, 12, **HARD)
    v, g = draw(crossbar, 3, 2, decades=1.0, v_max=0.1, seed=0)
    easy = crossbar.solve(v, g, tol=1e-12)
    v[1, 1] *= 20
    mixed = crossbar.solve(v, g, tol=1e-12)
    easy[1, 1] = mixed[1, 1]
    assert error(mixed, easy) < 1e-11
    assert error(mixed[1, 1], oracle(crossbar, v[1, 1], g[1, 0])) < 1e-9


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 6), (6, 1), (5, 8), (8, 5)])
@pytest.mark.parametrize("zero", [None, "r_source", "r_sink", "r_row", "r_col"])
def test_elimination_inverts_the_linearised_array(rows: int, cols: int, zero: str | None) -> None:
    """Against the operator itself: u + K(D u) = b, for any D >= 0 and per-tile wires."""
    generator = torch.Generator().manual_seed(1)
    values = {
        name: torch.rand(3, generator=generator).double() * 100 for name in ("r_source", "r_sink", "r_row", "r_col")
    }
    if zero is not None:
        values[zero] = torch.zeros(3).double()
    slopes = torch.rand(3, rows, cols, generator=generator).double() * 1e-2
    slopes[:, 0, 0] = 0
    b = torch.randn(3, 4, rows, cols, generator=generator).double()
    wires = Wires(**{name: r[:, None] for name, r in values.items()})
    u = from_field(Elimination(to_field(slopes[:, None]), wires).solve(to_field(b)))
    assert torch.allclose(u + wires.drop(slopes[:, None] * u), b, rtol=0, atol=1e-12)


def test_fields_lose_what_the_wires_take_and_turn_with_their_network() -> None:
    """The operator on the solver's layout, long slices and short, against that on (..., rows, cols)."""
    generator = torch.Generator().manual_seed(1)
    for tiles, vectors, rows, cols in ((2, 3, 4, 5), (2, 80, 16, 7), (1, 1, 1, 1), (1, 30, 90, 3)):
        names = ("r_source", "r_sink", "r_row", "r_col")
        wires = Wires(**{k: 10 * torch.rand(tiles, vectors, generator=generator).double() for k in names})
        currents = torch.randn(tiles, vectors, rows, cols, generator=generator).double()
        lost = from_field(drop_(to_field(currents).clone(memory_format=torch.contiguous_format), wires))
        torch.testing.assert_close(lost, wires.drop(currents), rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(turn(turn_wires(wires).drop(turn(currents))), lost, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("tol", [1e-6, 1e-9])
def test_the_tolerance_holds_for_the_currents_themselves(tol: float) -> None:
    """Not for the current that the cells miss alone; whichever lines are more, the columns' currents count."""
    for crossbar, v, g in random_problems(40, 1, 24, seed=5):
        assert error(crossbar.solve(v, g, method="native", tol=tol), oracle(crossbar, v, g)) < tol


@pytest.mark.parametrize("vectors", [1, 9])
def test_seldom_checked_is_as_exact(vectors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device, where each look at the convergence waits for it."""
    crossbar = Crossbar(9, 12, **HARD)
    v, g = draw(crossbar, 2, vectors, decades=2.0, v_max=0.5, seed=4)
    for module in (anderson, newton):
        monkeypatch.setattr(module, "CHECK_EVERY", {"cpu": 3})
    assert error(crossbar.solve(v, g), oracle(crossbar, v, g)) < 1e-9


def test_the_line_search_halves_until_the_residual_falls() -> None:
    """From rest, a full Newton step of a steep sinh overshoots by far."""
    crossbar = Crossbar(6, 6, **HARD, cell=SinhCell(0.05))
    v, g = draw(crossbar, 3, 1, decades=1.0, v_max=2.0, seed=5)
    fields = (to_field(x).contiguous() for x in (v[..., None], g))
    problem = anderson.Problem(*fields, crossbar.cell, crossbar.wires)
    u = torch.zeros(problem.shape, dtype=torch.float64)
    residual, _, slope = problem.step(u)
    step = Elimination(slope, problem.wires).solve(residual)

    def length(u: Tensor) -> Tensor:
        return problem.residual(u)[0].square().sum((0, 2, 3))

    assert (length(u + step) > length(u)).all()
    assert (length(newton._line_search(problem, u, residual, step)) < length(u)).all()
    solved, missed = newton.solve_damped_newton(problem, u, 1e-11)
    assert (missed <= 1e-11).all()
    assert error(from_field(crossbar.cell.current(solved, problem.conductances)).sum(-2), oracle(crossbar, v, g)) < 1e-9


def test_cells_of_their_own_follow_the_instances_that_are_picked() -> None:
    """Tiles with different cells, of which only some need the slow method."""
    v0 = torch.tensor([0.5, 0.2, 0.35, 0.2], dtype=torch.float64)
    crossbar = Crossbar(10, 10, **HARD)
    v, g = draw(crossbar, 4, 2, decades=1.0, v_max=0.1, seed=6)
    v[1:2] *= 20
    v[3:] *= 20
    currents = solve_cells(v, g, SinhCell(v0[:, None]), crossbar.wires).currents
    for k, scale in enumerate(v0.tolist()):
        alone = crossbar.replace(cell=SinhCell(scale))
        assert error(currents[k], oracle(alone, v[k], g[k])) < 1e-9


def test_gradients_on_a_hard_array() -> None:
    crossbar = Crossbar(3, 2, **{k: 6 * r for k, r in HARD.items()})
    for vectors in (1, 8):
        v, g = draw(crossbar, 1, vectors, decades=1.0, v_max=1.0, seed=3)
        v.requires_grad_()
        milli = (g * 1e3 + 0.05).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda v, milli: crossbar.solve(v, milli * 1e-3, tol=1e-13) * 1e3, (v, milli), eps=1e-5, atol=1e-5
        )


def test_what_is_not_solved_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the methods cut short, for no physical array is known that they do not solve."""
    monkeypatch.setattr(newton, "_DAMPED_STEPS", 1)
    crossbar = Crossbar(12, 12)
    v, g = draw(crossbar, 3, 2, decades=1.0, v_max=0.02, seed=0)
    v, g = v.abs(), g / 100
    v[1, 1] *= 200
    with pytest.raises(
        ConvergenceError, match=r"^1 of 6 arrays .*leading index \(1, 1\).*missed by .*tol=1e-09.*ngspice"
    ):
        crossbar.solve(v, g)
    with pytest.warns(ConvergenceWarning, match=r"leading index \(1, 1\)"):
        got = solve_cells(v, g, crossbar.cell, crossbar.wires, on_failure="warn").currents
    assert torch.isfinite(got).all()
    assert error(got[0], oracle(crossbar, v[0], g[0])) < 1e-9
