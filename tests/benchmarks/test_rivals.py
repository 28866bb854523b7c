"""Rival solvers against closed forms and each other, and campaigns of random arrays."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from rivals_and_bars.campaigns import against_superlu
from rivals_and_bars.nodal import NodalArray
from rivals_and_bars.random_arrays import random_problems
from rivals_and_bars.rivals import BadCrossbar, Ngspice, SuperLU

from geniex.bench.circuits import Case, Problem
from geniex.bench.solver_models import Native, Solver
from geniex.cells import Cell, LinearCell, SinhCell
from geniex.circuit import Crossbar
from geniex.circuit.metrics import relative_error
from geniex.errors import ConvergenceError

pytest.importorskip("scipy")


def newton(crossbar: Crossbar, volts: list[float], siemens: list[list[float]]) -> np.ndarray:
    return NodalArray(crossbar).solve(np.array(volts), np.array(siemens), tol=1e-13).currents


def test_newton_on_one_linear_cell_is_a_series_circuit() -> None:
    crossbar = Crossbar(1, 1, r_source=700.0, r_sink=300.0, r_wire=9.0, cell=LinearCell())
    np.testing.assert_allclose(newton(crossbar, [0.5], [[1e-4]]), [0.5 / (700 + 300 + 1e4)], rtol=1e-13)


def test_newton_on_one_sinh_cell_obeys_kirchhoff() -> None:
    crossbar = Crossbar(1, 1, r_source=700.0, r_sink=300.0, cell=SinhCell(v0=0.2))
    (current,) = newton(crossbar, [-2.0], [[1e-4]])
    u = -2.0 - 1000 * current
    assert current == pytest.approx(1e-4 * 0.2 * np.sinh(u / 0.2), rel=1e-12)


def test_newton_on_one_word_line_is_a_ladder() -> None:
    # Two cells of 1 kOhm: the second lies behind one more wire segment of 100 Ohm.
    crossbar = Crossbar(1, 2, r_source=0.0, r_sink=0.0, r_wire_row=100.0, r_wire_col=7.0, cell=LinearCell())
    np.testing.assert_allclose(newton(crossbar, [1.0], [[1e-3, 1e-3]]), [1 / 1000, 1 / 1100], rtol=1e-13)


def test_newton_on_one_bit_line_is_a_ladder() -> None:
    # Row 0 is driven alone, farthest from the sense side: its current passes one segment and the sink.
    crossbar = Crossbar(2, 1, r_source=0.0, r_sink=50.0, r_wire_row=7.0, r_wire_col=100.0, cell=LinearCell())
    np.testing.assert_allclose(newton(crossbar, [1.0, 0.0], [[1e-3], [0.0]]), [1 / 1150], rtol=1e-13)


@pytest.mark.parametrize("cell", [LinearCell(), SinhCell()], ids=["linear", "sinh"])
def test_newton_without_wires_is_the_ideal_product(cell: Cell) -> None:
    crossbar = Crossbar(3, 2, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=cell)
    v, g = torch.tensor([0.2, -0.1, 0.3]).double(), torch.rand(3, 2).double()
    expected = cell.current(v[:, None], g).sum(0)
    np.testing.assert_allclose(newton(crossbar, v.tolist(), g.tolist()), expected, rtol=1e-14)


def test_one_factorisation_serves_all_vectors_of_a_linear_array() -> None:
    problem = Case(7, "linear", "hard").problem(3, seed=1)
    array, g = NodalArray(problem.crossbar), problem.conductances.numpy()
    one_by_one = [array.solve(v, g, 1e-13).currents for v in problem.voltages.numpy()]
    np.testing.assert_allclose(array.solve_linear(problem.voltages.numpy(), g), one_by_one, rtol=1e-12)


def test_newton_does_not_overshoot() -> None:
    # From no cell voltage at all, the tangent of a sinh leads far beyond the solution.
    array = NodalArray(Crossbar(1, 1, r_source=1e5, r_sink=0.0, cell=SinhCell(v0=0.1)))
    drive, g, x = np.array([2.0]), np.array([1e-6]), np.array([2.0])
    gap = array._gap(x, array._cells(drive, g, x)[0])
    step = array._factor(g).solve(-gap)
    assert 0 < array._stride(drive, g, x, step, gap @ step) < 1


def test_open_arrays_carry_nothing() -> None:
    assert not newton(Crossbar(3, 2), [0.1, 0.2, 0.3], [[0.0, 0.0]] * 3).any()


@pytest.mark.parametrize(
    ("rival", "case"),
    [
        (Native(), Case(6, "sinh", "hard 2 V")),
        (Native(), Case(6, "linear", "hard")),
        pytest.param(Ngspice(), Case(6, "sinh", "hard 2 V"), marks=pytest.mark.ngspice),
        (BadCrossbar(), Case(6, "linear", "segments")),
    ],
    ids=lambda x: x.name if not isinstance(x, Case) else str(x),
)
def test_rivals_agree_with_superlu(rival: Solver, case: Case) -> None:
    if rival.missing is not None:
        pytest.skip(rival.missing)
    problem = case.problem(4, seed=0)
    problem = problem.first(rival.vectors(problem))
    expected = NodalArray(problem.crossbar)
    currents = [expected.solve(v, problem.conductances.numpy(), 1e-13).currents for v in problem.voltages.numpy()]
    # The native solver's own tolerance; the others are tighter.
    assert relative_error(torch.tensor(np.array(currents)), rival.prepare(problem)().currents).max() < 1e-9


def test_a_rival_is_given_what_it_can_solve() -> None:
    linear, sinh = Case(4, "linear", "easy").problem(9, 0), Case(4, "sinh", "easy").problem(9, 0)
    segments, large = Case(4, "linear", "segments").problem(9, 0), Case(65, "linear", "easy").problem(9, 0)
    assert [SuperLU().vectors(p) for p in (linear, sinh)] == [9, 1]
    assert [BadCrossbar().vectors(p) for p in (linear, segments)] == [0, 9]
    assert [Ngspice().vectors(p) for p in (sinh, large)] == [1, 0]


def test_random_arrays_are_of_all_kinds() -> None:
    problems = list(random_problems(200, 1, 8, seed=0))
    kinds: dict[str, Callable[[Problem], bool]] = {
        "linear": lambda p: p.crossbar.cell.is_linear,
        "sinh": lambda p: not p.crossbar.cell.is_linear,
        "square": lambda p: p.crossbar.rows == p.crossbar.cols,
        "tall": lambda p: p.crossbar.rows > p.crossbar.cols,
        "wide": lambda p: p.crossbar.rows < p.crossbar.cols,
        "asymmetric": lambda p: p.crossbar.wires.r_row != p.crossbar.wires.r_col,
        "open cells": lambda p: bool((p.conductances == 0).any()),
        "six decades": lambda p: bool(p.conductances.max() > 1e5 * p.conductances[p.conductances > 0].min()),
        "both signs": lambda p: bool(p.voltages.min() < 0 < p.voltages.max()),
        "near 2 V": lambda p: bool(p.voltages.max() > 1.8),
    }
    for name in ("r_source", "r_sink", "r_row", "r_col"):
        kinds[f"no {name}"] = lambda p, name=name: getattr(p.crossbar.wires, name) == 0
    assert [kind for kind, holds in kinds.items() if sum(map(holds, problems)) < 3] == []
    assert all(p.voltages.abs().max() <= 2 for p in problems)
    again = list(random_problems(200, 1, 8, seed=0))
    assert all(torch.equal(p.conductances, q.conductances) for p, q in zip(problems, again, strict=True))


def test_a_wrong_or_missing_solution_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = list(random_problems(6, 2, 5, seed=3))
    right = against_superlu(problems, 5)
    assert (right.arrays, right.failures, right.oracle_failures) == (6, (), ())
    assert right.worst is not None
    assert right.worst < 1e-9
    solve = Crossbar.solve
    monkeypatch.setattr(Crossbar, "solve", lambda *args, **options: solve(*args, **options) * (1 + 1e-6))
    assert against_superlu(problems, 5).worst == pytest.approx(1e-6, rel=1e-2)

    def give_up(*_: object, **__: object) -> None:
        raise ConvergenceError("residual 1e-3")

    monkeypatch.setattr(Crossbar, "solve", give_up)
    none = against_superlu(problems, 5)
    assert (none.arrays, none.worst, len(none.failures)) == (0, None, 6)
    assert "residual 1e-3" in none.failures[0]
