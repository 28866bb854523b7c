"""``geniex bench solver``: its clock, its figures with and without the rivals of a checkout, and its report."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import geniex.bench.extension
from geniex.bench.circuits import Case
from geniex.bench.extension import ABSENT, load_extension
from geniex.bench.memory import MemoryMeter
from geniex.bench.solver import _solution, bench_solver
from geniex.bench.solver_models import Native
from geniex.bench.solver_report import SolverReport, SolverSettings
from geniex.bench.timing import fit_growth, time_in_turns
from geniex.cli.main import main
from geniex.errors import ConvergenceError

TINY = SolverSettings(
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


def test_contenders_take_turns() -> None:
    turns: list[str] = []
    actions = {name: (lambda name=name: turns.append(name) or name) for name in "ab"}
    timings = time_in_turns(actions, repeats=2, patience=10)
    assert turns == list("ababab")
    assert [len(timings[name].seconds) for name in "ab"] == [2, 2]
    assert timings["a"].result == "a"


def test_a_slow_contender_keeps_its_only_run_and_a_failing_one_its_reason() -> None:
    def fail() -> None:
        raise ConvergenceError("no way")

    actions: dict[str, Callable[[], object]] = {"slow": lambda: torch.rand(1000).sum(), "failing": fail}
    timings = time_in_turns(actions, repeats=3, patience=0.0)
    assert len(timings["slow"].seconds) == 1
    assert (timings["failing"].median, timings["failing"].failure) == (None, "no way")


def test_growth_is_the_exponent_of_a_power_law() -> None:
    sizes = [32, 64, 128, 256]
    assert fit_growth(sizes, [3e-6 * n**2.5 for n in sizes]) == pytest.approx(2.5)


@pytest.fixture(scope="module")
def report() -> SolverReport:
    return bench_solver(TINY, extension=load_extension())


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


def test_geniex_alone_is_timed_and_checked_against_its_own_tight_solution() -> None:
    report = bench_solver(dataclasses.replace(TINY, sizes=(5,)))
    assert {row.contender for row in report.rows} == {"native float64", "native float32"}
    assert all(row.failure is None and row.reference == "native, tight" for row in report.rows)
    assert all(row.error <= 1e-9 for row in report.rows if row.contender == "native float64")
    assert [row.seconds_per_tile is not None for row in report.responses] == [True]
    assert (report.accuracy, report.bars) == ((), ())
    assert report.notes[0] == ABSENT


def test_the_extension_is_that_of_the_checkout_or_else_of_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(geniex.__file__).parents[1]
    assert type(load_extension()).__name__ == "Checkout"
    monkeypatch.setattr(geniex.bench.extension.geniex, "__file__", str(tmp_path / "lib" / "geniex" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert load_extension() is None
    monkeypatch.chdir(root)
    assert type(load_extension()).__name__ == "Checkout"


def test_peak_memory_holds_the_cell_voltages() -> None:
    with MemoryMeter() as meter:
        peak = meter.growth(_solution, Native(), Case(64, "sinh", "easy"), 100, 0)
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


def test_the_command_without_a_checkout_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("geniex.bench.extension.load_extension", lambda: None)
    assert main(["bench", "solver", "--sizes", "[3]", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert f"Note: {ABSENT}" in printed
    assert "native float64" in printed
    for absent in ("SuperLU", "project's bars, on", "Random arrays"):
        assert absent not in printed
