"""``geniex bench surrogate``: what is timed gives the right currents, and its figures add up."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import geniex
from geniex.bench.memory import MemoryMeter
from geniex.bench.pareto import find_pareto_front, make_pareto_table
from geniex.bench.surrogate import bench_surrogate
from geniex.bench.surrogate_models import Concatenated, draw_task, make_contenders
from geniex.bench.surrogate_report import (
    CIRCUIT,
    CONCATENATED,
    FACTORED,
    FAST,
    IDEAL,
    PHYSICS,
    SurrogateReport,
    SurrogateRow,
    SurrogateSettings,
    count_amortised_reads,
)
from geniex.bench.timing import Timing
from geniex.cli.main import main
from geniex.study.statistics import measure_current_errors
from geniex.surrogate import GeniexMLP, load_surrogate, save_surrogate

TINY = SurrogateSettings(
    sizes=(6,), stream_bits=(4,), tiles=3, vectors=20, chunk=8, witnesses=5, repeats=1, patience=10.0, memory=False
)


@pytest.fixture(scope="module")
def report() -> SurrogateReport:
    return bench_surrogate(TINY)


def test_tasks_hold_all_sparsities_and_the_streams_levels() -> None:
    for bits, levels in ((1, [0, 0.25]), (2, [0, 0.25 / 3, 0.5 / 3, 0.25])):
        task = draw_task(32, bits, dataclasses.replace(TINY, tiles=4, vectors=200))
        np.testing.assert_allclose(task.voltages.unique(), levels)
        zeros = (task.voltages == 0).double().mean(-1)
        assert zeros.min() < 0.15
        assert zeros.max() > 0.85
        assert (task.voltages > 0).any(-1).all()
        lowest = (task.conductances < 1.01 * task.window.g_off).double().mean((-2, -1))
        np.testing.assert_allclose(lowest, [0, 0.25, 0.5, 0.75], atol=0.06)
        assert task.conductances.unique().numel() == 16


def test_the_concatenated_network_is_the_factored_one(generator: torch.Generator) -> None:
    task = draw_task(6, 4, TINY)
    mlp = GeniexMLP(task.crossbar, task.window, task.v_max, hidden=9, r_min=0.9, r_max=1.1)
    whole = Concatenated(mlp)
    with torch.no_grad():
        found = whole.read(whole.program(task.conductances), task.voltages)
        expected = mlp.read(mlp.program(task.conductances), task.voltages)
    assert found.shape == (20, 3, 6)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_every_model_gives_the_currents_of_every_tile_and_vector() -> None:
    task = draw_task(6, 4, TINY)
    ideal = torch.einsum("vi,tij->vtj", task.voltages[:, 0], task.conductances)
    models, notes = make_contenders(task, TINY)
    assert notes == []
    with torch.no_grad():
        for contender in models:
            array = contender.model.program(task.conductances.to(contender.dtype))
            reads_in = torch.float32 if contender.calibrates else contender.dtype
            currents = contender.model.read(array, task.voltages.to(reads_in))
            assert currents.shape == ideal.shape
            assert currents.dtype == reads_in
            if contender.name not in (FACTORED, CONCATENATED):
                # A nominal array of this size is nearly ideal, and every model knows that.
                assert (currents - ideal).norm() < 0.1 * ideal.norm()


def test_rows_have_a_cost_and_an_error_each(report: SurrogateReport) -> None:
    rows = {row.model: row for row in report.rows}
    assert list(rows) == [IDEAL, "linear", "DMR", "alpha-beta", FACTORED, CONCATENATED, FAST, PHYSICS, CIRCUIT]
    assert all(row.failure is None and row.seconds_per_read and row.program_seconds for row in report.rows)
    for row in report.rows:
        assert row.over_ideal == pytest.approx(row.seconds_per_read / rows[IDEAL].seconds_per_read)
        assert row.over_mlp == pytest.approx(row.seconds_per_read / rows[FACTORED].seconds_per_read)
    assert rows[CIRCUIT].nf_rmse_pp == 0
    task = draw_task(6, 4, TINY)
    v, g = task.voltages[:5], task.conductances
    ideal = torch.einsum("vi,tij->vtj", v[:, 0], g)
    exact = task.crossbar.solve(v, g, method="native", tol=1e-12)
    for name, predicted in (
        ("ideal", ideal),
        ("linear", torch.einsum("vi,tij->vtj", v[:, 0], task.crossbar.effective_conductance(g))),
    ):
        expected = measure_current_errors(ideal, exact, predicted)
        # Reads are in float32, whose rounding is 1e-7 of a current.
        assert rows[name].nf_rmse_pp == pytest.approx(expected.nf_rmse_pp, rel=1e-4, abs=1e-4)
        assert rows[name].relative_p999 == pytest.approx(expected.relative_p999, rel=1e-4)


def test_costs_are_of_one_tile_and_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(actions: dict, repeats: int, patience: float) -> dict:
        return {key: Timing([3.0 if key[0] == "program" else 6.0], action()) for key, action in actions.items()}

    monkeypatch.setattr("geniex.bench.surrogate.time_in_turns", clock)
    monkeypatch.setattr("geniex.bench.surrogate_models._FEW", 6)
    rows = {row.model: row for row in bench_surrogate(TINY).rows}
    # 3 tiles of 20 vectors; the concatenated network is given 6 tile-vectors.
    assert rows[IDEAL].reads == 60
    assert rows[IDEAL].seconds_per_read == pytest.approx(6.0 / 60)
    assert rows[CONCATENATED].reads == 6
    assert rows[CONCATENATED].seconds_per_read == pytest.approx(1.0)
    assert rows[CONCATENATED].over_ideal == pytest.approx(10.0)
    assert {row.program_seconds for row in rows.values()} == {1.0}


def test_networks_of_random_weights_are_timed_without_an_error(report: SurrogateReport) -> None:
    for row in report.rows:
        assert (row.nf_rmse_pp is None) == (row.model in (FACTORED, CONCATENATED))
        assert ("random weights" in row.note) == (row.model in (FACTORED, CONCATENATED))


def test_a_given_network_takes_the_place_of_random_weights_and_others_are_noted(tmp_path: Path) -> None:
    task = draw_task(6, 4, TINY)
    right = GeniexMLP(task.crossbar, task.window, task.v_max, hidden=4)
    wrong = GeniexMLP(task.crossbar.replace(r_sink=7.0), task.window, task.v_max, hidden=4)
    for name, mlp in (("wrong", wrong), ("right", right)):
        save_surrogate(mlp, tmp_path / name)
    given = dataclasses.replace(TINY, surrogates=(str(tmp_path / "wrong.json"), str(tmp_path / "right")))
    models, notes = make_contenders(task, given)
    assert [(m.name, m.trained) for m in models if m.name in (FACTORED, CONCATENATED)] == [
        (FACTORED, True),
        (CONCATENATED, True),
    ]
    assert len(notes) == 1
    assert notes[0].startswith("6x6 without wrong: ")
    assert "r_sink=7.0" in notes[0]


def test_a_surrogate_of_any_circuit_takes_part_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Universal(torch.nn.Module):
        def bound(self, crossbar: object, window: object, v_max: object, binary: bool) -> "Universal":
            return self

        def program(self, g: torch.Tensor) -> torch.Tensor:
            return g

        def read(self, g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return torch.einsum("vtr,trc->vtc", v.expand(-1, len(g), -1), g)

    def load(name: str) -> torch.nn.Module:
        return Universal() if FAST in str(name) else load_surrogate(name)

    monkeypatch.setattr("geniex.bench.surrogate_models.load_surrogate", load)
    found = bench_surrogate(dataclasses.replace(TINY, surrogates=(f"out/{FAST}.safetensors",)))
    rows = {row.model: row for row in found.rows}
    assert rows[FAST].nf_rmse_pp == pytest.approx(rows[IDEAL].nf_rmse_pp, rel=1e-3)


def test_programming_pays_off_where_reads_are_cheaper_than_the_circuit() -> None:
    # 10 ms to program; a read saves 1 ms, so that ten reads break even.
    assert count_amortised_reads(10e-3, 1e-3, 2e-3) == 10
    assert count_amortised_reads(10.5e-3, 1e-3, 2e-3) == 11
    assert count_amortised_reads(1e-3, 2e-3, 1e-3) is None
    assert count_amortised_reads(None, 2e-3, 1e-3) is None


def _row(model: str, microseconds: float, nf_rmse_pp: float | None = None, p999: float | None = None) -> SurrogateRow:
    figures = dict.fromkeys([f.name for f in dataclasses.fields(SurrogateRow)])
    known = {"size": 64, "stream_bits": 4, "model": model, "seconds_per_read": 1e-6 * microseconds}
    return SurrogateRow(**(figures | known | {"nf_rmse_pp": nf_rmse_pp, "relative_p999": p999}))  # type: ignore[arg-type]


def _report(*rows: SurrogateRow) -> SurrogateReport:
    return SurrogateReport(TINY, {"processor": "P", "versions": {"torch": "T"}}, (), rows)


def test_front_leaves_out_what_another_beats() -> None:
    points = {"slow": (3.0, 2.0), "cheap": (1.0, 9.0), "good": (2.0, 1.0), "exact": (9.0, 0.0), "same cost": (1.0, 9.5)}
    assert find_pareto_front(points) == ["cheap", "good", "exact"]


def test_pareto_table_marks_the_front_and_leaves_out_models_without_error() -> None:
    table = make_pareto_table(_report(_row(IDEAL, 0.1, 12.0, 0.25), _row("worse", 0.2, 13.0), _row(FACTORED, 1.2)))
    lines = [line for line in table.splitlines() if line.startswith("| 64x64")]
    assert lines == [
        f"| 64x64 | 4-bit | **{IDEAL}** | 0.1 | - | - | 12 | 25 % |",
        "| 64x64 | 4-bit | worse | 0.2 | - | - | 13 | - |",
    ]


def test_pareto_table_is_worded_as_the_shipped_one() -> None:
    settings = SurrogateSettings()
    machine = {"processor": "AMD EPYC", "versions": {"torch": "2.14.1"}}
    shipped = (Path(geniex.__file__).parents[1] / "models" / "pareto.md").read_text().splitlines()
    row = _row(IDEAL, 0.1, 12.0, 0.25)
    assert make_pareto_table(SurrogateReport(settings, machine, (), (row,))).splitlines()[:6] == shipped[:6]


def _grow(mebibytes: int):
    return lambda: torch.ones(mebibytes << 18)


def test_growth_is_of_the_work_and_not_of_its_preparation() -> None:
    with MemoryMeter() as meter:
        peak = meter.growth(_grow, 64)
    assert peak is not None
    assert 60 << 20 < peak < 80 << 20


def test_the_command_prints_figures_beside_bars_and_writes_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    options = ["--sizes", "[4]", "--tiles", "2", "--vectors", "8", "--quick", "--json", str(tmp_path / "b.json")]
    assert main(["bench", "surrogate", *options, "--pareto", str(tmp_path / "pareto")]) == 0
    printed = capsys.readouterr().out
    for words in (
        "4x4 tiles, 1-bit streams",
        FACTORED,
        "random weights, timed only",
        "pays off after reads",
        "not measured",
    ):
        assert words in printed
    found = json.loads((tmp_path / "b.json").read_text())
    assert (found["format"], found["schema_version"]) == ("geniex-bench-surrogate", 1)
    assert {"settings", "machine", "notes", "rows", "bars"} <= set(found)
    assert set(found["rows"][0]) == {f.name for f in dataclasses.fields(SurrogateRow)}
    assert {path.name for path in (tmp_path / "pareto").iterdir()} == {
        "pareto.md",
        "pareto-4-1bit.png",
        "pareto-4-4bit.png",
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["surrogate", "--threads", "[2]"], "threads: got [2]; it is an option of `geniex bench solver`"),
        (["surrogate", "--ngspice", "false"], "ngspice: got False; it is an option of `geniex bench solver`"),
        (["solver", "--pareto", "p"], "pareto: got p; it is an option of `geniex bench surrogate`"),
        (["solver", "--surrogate", "physics"], "surrogate: got ['physics']; it is an option"),
        (["surrogate", "--vectors", "0"], "vectors: got 0"),
        (["surrogate", "--sizes", "[-3]"], "sizes: got -3"),
        (["surrogate", "--surrogate", "none-such", "--sizes", "[4]"], "no such file"),
        (["nothing"], "nothing"),
    ],
)
def test_wrong_options_are_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *options]) == 2
    assert said in capsys.readouterr().err
