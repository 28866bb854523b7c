"""``geniex bench solver``: its rivals against closed forms and each other, its clock, its bars, its report."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from geniex.bench.accuracy import against_superlu, current_error
from geniex.bench.bars import Bar, solver_bars
from geniex.bench.cases import Case, Problem, random_problems
from geniex.bench.memory import MemoryMeter
from geniex.bench.nodal import NodalArray
from geniex.bench.report import Settings, SolverReport
from geniex.bench.rivals import BadCrossbar, Native, Ngspice, Rival, SuperLU
from geniex.bench.solver import bench_solver
from geniex.bench.timing import growth, interleaved
from geniex.cells import Cell, LinearCell, SinhCell
from geniex.circuit import Crossbar
from geniex.cli.main import main
from geniex.errors import ConvergenceError

pytest.importorskip("scipy")
TINY = Settings(
    sizes=(3, 5),
    repeats=1,
    patience=0.0,
    ngspice=False,
    ngspice_arrays=0,
    ngspice_large=0,
    superlu_arrays=4,
    superlu_size=6,
    memory=False,
)


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
def test_rivals_agree_with_superlu(rival: Rival, case: Case) -> None:
    if rival.missing is not None:
        pytest.skip(rival.missing)
    problem = case.problem(4, seed=0)
    problem = problem.first(rival.vectors(problem))
    expected = NodalArray(problem.crossbar)
    currents = [expected.solve(v, problem.conductances.numpy(), 1e-13).currents for v in problem.voltages.numpy()]
    # The native solver's own tolerance; the others are tighter.
    assert current_error(rival.prepare(problem)().currents, torch.tensor(np.array(currents))) < 1e-9


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


def test_error_is_relative_to_the_current_or_a_thousandth_of_the_largest() -> None:
    expected = torch.tensor([1.0, 1e-6, 0.0]).double()
    assert current_error(expected + torch.tensor([1e-6, 0.0, 0.0]), expected) == pytest.approx(1e-6)
    assert current_error(expected + torch.tensor([0.0, 1e-6, 0.0]), expected) == pytest.approx(1e-3)
    assert current_error(torch.zeros(2), torch.zeros(2)) == 0
    assert current_error(torch.ones(2), torch.zeros(2)) == float("inf")


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


def test_contenders_take_turns() -> None:
    turns: list[str] = []
    actions = {name: (lambda name=name: turns.append(name) or name) for name in "ab"}
    timings = interleaved(actions, repeats=2, patience=10)
    assert turns == list("ababab")
    assert [len(timings[name].seconds) for name in "ab"] == [2, 2]
    assert timings["a"].result == "a"


def test_a_slow_contender_keeps_its_only_run_and_a_failing_one_its_reason() -> None:
    def fail() -> None:
        raise ConvergenceError("no way")

    actions: dict[str, Callable[[], object]] = {"slow": lambda: torch.rand(1000).sum(), "failing": fail}
    timings = interleaved(actions, repeats=3, patience=0.0)
    assert len(timings["slow"].seconds) == 1
    assert (timings["failing"].median, timings["failing"].failure) == (None, "no way")


def test_growth_is_the_exponent_of_a_power_law() -> None:
    sizes = [32, 64, 128, 256]
    assert growth(sizes, [3e-6 * n**2.5 for n in sizes]) == pytest.approx(2.5)


def test_bars_are_met_missed_or_not_measured() -> None:
    below = Bar("time", "ms", 2.0, 1.0)
    assert below.met
    assert dataclasses.replace(below, measured=3.0).met is False
    assert dataclasses.replace(below, measured=None).met is None
    assert dataclasses.replace(below, at_least=True).met is False
    assert dataclasses.replace(below, partial="3 of 5").met is None
    assert dataclasses.replace(below, measured=3.0, partial="3 of 5").met is False


@pytest.fixture(scope="module")
def report() -> SolverReport:
    return bench_solver(TINY)


def test_every_case_has_a_row_of_every_rival(report: SolverReport) -> None:
    mine = [row for row in report.rows if row.circuit != "segments"]
    assert len(mine) == 2 * 2 * 3 * 2 * 3  # sizes, cells, circuits, vectors; two precisions and SuperLU
    assert all(row.failure is None and row.seconds_per_vector for row in mine)
    assert {row.contender for row in mine} == {"native float64", "native float32", "SuperLU"}
    native = [row for row in mine if row.contender == "native float64"]
    assert all(row.error is not None and row.error <= 1e-9 and row.ratio == 1 for row in native)
    assert all(row.iterations for row in mine if row.cell == "sinh")


def test_ratio_is_the_time_over_that_of_native(report: SolverReport) -> None:
    for row in report.rows:
        same = dataclasses.astuple(row)[:5]
        native = next(r for r in report.rows if dataclasses.astuple(r)[:5] == same and r.contender == "native float64")
        assert row.ratio == pytest.approx(row.seconds_per_vector / native.seconds_per_vector)


def test_responses_gradients_and_campaigns_are_there(report: SolverReport) -> None:
    assert [row.size for row in report.responses] == [3, 5]
    assert all(row.error is not None and row.error < 1e-12 for row in report.responses)
    assert all(row.ratio for row in report.backward)
    assert [(c.oracle, c.arrays, c.failures) for c in report.accuracy] == [("SuperLU", 4, ())]
    assert any("ngspice" in note for note in report.notes)


def test_a_slow_or_wrong_solver_misses_its_bars(report: SolverReport) -> None:
    rows = [row for row in report.rows if row.size == 5]
    slow = [dataclasses.replace(r, size=64, seconds_per_vector=1.0, ratio=50.0, error=1e-3) for r in rows]
    fast = [dataclasses.replace(r, size=64, seconds_per_vector=1e-4, ratio=5e4, error=1e-12) for r in rows]
    name = "64x64 sinh hard, 100 vectors"
    faster = "faster than SuperLU, 64x64 sinh, 100 vectors"
    for given, met in ((slow, False), (fast, True)):
        bars = {bar.figure: bar for bar in solver_bars(dataclasses.replace(report, rows=tuple(given)))}
        assert [bars[f].met for f in (name, faster, "error of the timed cases")] == [met] * 3
        assert bars["128x128 sinh easy, 100 vectors"].met is None


def test_peak_memory_holds_the_cell_voltages() -> None:
    with MemoryMeter() as meter:
        peak = meter.peak(Native(), Case(64, "sinh", "easy"), vectors=100, seed=0)
    assert peak is not None
    # 100 vectors of 64x64 doubles at least, and no more than a chunk's workspace and allocator slack.
    assert 100 * 64 * 64 * 8 < peak < 1 << 30


def test_the_command_prints_figures_beside_bars_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options = ["--sizes", "[3]", "--ngspice", "false", "--memory", "false", "--superlu-arrays", "2", "--quick"]
    out = tmp_path / "bench.json"
    assert main(["bench", "solver", *options, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    for words in ("native float64", "SuperLU", "error of the timed cases", "met", "2 of 200 arrays", "not measured"):
        assert words in printed
    found = json.loads(out.read_text())
    assert (found["format"], found["schema_version"]) == ("geniex-bench-solver", 1)
    assert {"settings", "machine", "notes", "rows", "responses", "backward", "growth", "accuracy", "bars"} <= set(found)
    assert {"torch", "scipy", "python"} <= set(found["machine"]["versions"])
    assert {"figure", "limit", "measured", "met"} <= set(found["bars"][0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sizes", "[0]"], "sizes: got 0"),
        (["--threads", "[-1]"], "threads: got -1"),
        (["--superlu-arrays", "-1"], "superlu_arrays: got -1"),
    ],
)
def test_wrong_options_are_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "solver", *options]) == 2
    assert said in capsys.readouterr().err
