"""Evaluation of models on a sweep, against figures worked out by hand and the circuit itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geniex.cells import LinearCell, OneTransistorOneResistor, SinhCell
from geniex.circuit import Crossbar
from geniex.circuit.metrics import relative_error
from geniex.cli.main import main
from geniex.errors import CheckpointError, InputError
from geniex.mapping import ConductanceWindow
from geniex.study.analytic import calibrate_affine
from geniex.study.statistics import measure_current_errors
from geniex.study.surrogate_errors import compare, evaluate_surrogates
from geniex.surrogate import GeniexMLP, PhysicsSurrogate, save_surrogate, split_tiles
from geniex.sweep import CircuitRanges, SweepConfig, SweepFile, SweepIndex, SweepSet, run_sweep, run_sweep_set

WINDOW = ConductanceWindow(50e3, 6.0)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFile:
    config = SweepConfig(Crossbar(4, 3), WINDOW, v_max=0.25, tiles=30, vectors=2)
    return SweepFile(run_sweep(config, tmp_path_factory.mktemp("evaluate") / "sweep.h5", workers=1))


@pytest.fixture
def trained_here(sweep: SweepFile) -> GeniexMLP:
    """A network of known output, f_R = 1.25 everywhere, that says it was trained on this sweep."""
    mlp = GeniexMLP(sweep.crossbar, WINDOW, 0.25, hidden=4, r_min=1.25, r_max=1.5)
    torch.nn.init.zeros_(mlp.output.weight)
    torch.nn.init.zeros_(mlp.output.bias)
    mlp.info = {"data": {"digest": sweep.digest}, "split": {"seed": 7}}
    return mlp


def test_errors_worked_out_by_hand():
    ideal = torch.tensor([[4e-6, 2e-6, 0.0]], dtype=torch.float64)
    exact = torch.tensor([[2e-6, 1e-6, 0.0]], dtype=torch.float64)
    predicted = torch.tensor([[2.2e-6, 1e-6, 1e-9]], dtype=torch.float64)
    errors = measure_current_errors(ideal, exact, predicted)
    # NF differs by 0.05 and 0; the third column has none. The third error is against 1e-3 of 2e-6.
    assert errors.nf_rmse_pp == pytest.approx(100 * (0.05**2 / 2) ** 0.5)
    assert errors.relative_max == pytest.approx(0.5)
    assert errors.relative_rms == pytest.approx(((0.1**2 + 0.5**2) / 3) ** 0.5)
    assert errors.columns == 3


def test_an_array_that_carries_nothing_has_no_error_unless_one_is_predicted():
    zero = torch.zeros(2, 3, dtype=torch.float64)
    assert torch.equal(relative_error(zero, zero), zero)
    assert torch.isinf(relative_error(zero, zero + 1e-9)).all()


def test_rows_are_the_models_own_errors(sweep, trained_here):
    report = evaluate_surrogates(sweep, {"flat": trained_here})
    g, v, exact = sweep.read(0, sweep.tiles)
    ideal = torch.einsum("tvi,tij->tvj", v, g)
    linear = sweep.crossbar.replace(cell=LinearCell()).solve(v, g[:, None], method="native", tol=1e-12)
    # DMR: each cell behind its own path, 500 + 2.5 j + 2.5 (3 - i) + 100 ohm.
    path = 600 + 2.5 * np.arange(3) + 2.5 * (3 - np.arange(4))[:, None]
    distance = torch.einsum("tvi,tij->tvj", v, 1 / (1 / g + torch.from_numpy(path)))
    affine = calibrate_affine(g[:, None], sweep.crossbar.cell, sweep.crossbar.wires, 0.25, 8).read(v)
    for row, predicted in zip(report.rows, (ideal, linear, distance, affine, ideal / 1.25), strict=True):
        expected = measure_current_errors(ideal, exact, predicted)
        assert row.errors.columns == 30 * 2 * 3
        # The linear oracle is iterative, to 1e-12 of a current.
        assert row.errors.nf_rmse_pp == pytest.approx(expected.nf_rmse_pp, rel=1e-8)
        assert row.errors.relative_max == pytest.approx(expected.relative_max, rel=1e-8)
    assert [row.model for row in report.rows] == ["ideal", "linear", "DMR", "alpha-beta", "flat"]
    assert [row.seen for row in report.rows] == [False] * 4 + [True]


def test_linear_row_is_exact_for_linear_cells(tmp_path):
    config = SweepConfig(Crossbar(4, 3, cell=LinearCell()), WINDOW, v_max=0.25, tiles=4, vectors=2)
    report = evaluate_surrogates(run_sweep(config, tmp_path / "linear.h5", workers=1))
    ideal, linear = report.rows[:2]
    assert linear.errors.relative_max < 1e-8 < 1e-3 < ideal.errors.relative_max


def test_held_out_compares_only_the_checkpoints_test_tiles(sweep, trained_here):
    report = evaluate_surrogates(sweep, {"flat": trained_here}, held_out=True)
    tiles = split_tiles(30, seed=7).test
    g, v, exact = (torch.stack(part) for part in zip(*(_one(sweep, int(t)) for t in tiles), strict=True))
    ideal = torch.einsum("tvi,tij->tvj", v, g)
    assert report.tiles == 3
    assert report.rows[4].errors.nf_rmse_pp == pytest.approx(
        measure_current_errors(ideal, exact, ideal / 1.25).nf_rmse_pp
    )
    assert not report.rows[4].seen


def test_held_out_needs_the_surrogates_own_data(sweep, trained_here):
    trained_here.info["data"]["digest"] = "0" * 64
    with pytest.raises(InputError, match="flat was trained on other data"):
        evaluate_surrogates(sweep, {"flat": trained_here}, held_out=True)
    assert not evaluate_surrogates(sweep, {"flat": trained_here}).rows[2].seen


def test_held_out_needs_a_surrogate_and_one_split(sweep, trained_here):
    with pytest.raises(InputError, match="give the trained surrogates"):
        evaluate_surrogates(sweep, held_out=True)
    other = GeniexMLP(sweep.crossbar, WINDOW, 0.25, hidden=4)
    other.info = trained_here.info | {"split": {"seed": 8}}
    with pytest.raises(InputError, match="different splits"):
        evaluate_surrogates(sweep, {"a": trained_here, "b": other}, held_out=True)


def test_a_surrogate_of_another_crossbar_is_refused(sweep):
    with pytest.raises(CheckpointError, match=r"r_sink=0\.0 and not 100.0"):
        evaluate_surrogates(sweep, [GeniexMLP(Crossbar(4, 3, r_sink=0.0), WINDOW, 0.25)])


def test_command_line(sweep, trained_here, tmp_path: Path, capsys):
    one, two = (save_surrogate(trained_here, tmp_path / name) for name in ("one", "two"))
    out = tmp_path / "report.json"
    argv = ["evaluate", str(sweep.path), "--surrogate", str(one), "--surrogate", str(two)]
    assert main([*argv, "--held_out", "true", "--json", str(out)]) == 0
    assert "3 held-out tiles x 2 vectors" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert [row["model"] for row in report["rows"]] == ["ideal", "linear", "DMR", "alpha-beta", str(one), str(two)]
    assert report["rows"][4]["nf_rmse_pp"] == report["rows"][5]["nf_rmse_pp"] > 0
    assert main(["evaluate", str(sweep.path), "--surrogate", str(one)]) == 0
    assert main(["evaluate", str(sweep.path), "--surrogate", "no-such"]) == 2
    assert "no-such" in capsys.readouterr().err


def test_bins_hold_the_columns_that_they_say(sweep):
    ideal_row = evaluate_surrogates(sweep).rows[0]
    g, v, exact = (part.numpy() for part in sweep.read(0, sweep.tiles))
    ideal = np.einsum("tvi,tij->tvj", v, g)
    shape = ideal.shape
    with np.errstate(invalid="ignore"):
        nf = 100 * (ideal - exact) / ideal
    g_off = 1 / (50e3 * 6)
    columns = {
        ("nf", "below -10 %"): nf < -10,
        ("nf", "-5 to 0 %"): (nf >= -5) & (nf < 0),
        ("nf", "0 to 5 %"): (nf >= 0) & (nf < 5),
        ("cells", "0.5 to 0.75"): _between(np.isclose(g, g_off).mean((1, 2))[:, None, None], 0.5, 0.75),
        ("inputs", "below 0.25"): _between((v == 0).mean(2)[..., None], -1, 0.25),
        ("voltage", "0.1 to 0.2"): _between(v.mean(2)[..., None] / 0.25, 0.1, 0.2),
        ("drive", "1 to 1.5"): np.ones(shape, bool),
        ("range", "to 64x64, drive to 1"): np.ones(shape, bool),
    }
    found = {(b.by, b.label): b.errors for b in ideal_row.bins}
    for (by, label), inside in columns.items():
        inside = np.broadcast_to(inside, shape)
        if not inside.any():
            assert (by, label) not in found
            continue
        # The ideal product's NF is 0, so that its error is the exact NF.
        errors = found[by, label]
        assert errors.columns == inside.sum()
        assert errors.nf_rmse_pp == pytest.approx(np.sqrt(np.nanmean(nf[inside] ** 2)), rel=1e-9)
    for by in ("cells", "inputs", "voltage", "drive", "range"):
        assert sum(e.columns for (b, _), e in found.items() if b == by) == ideal.size


class OpenColumn(SweepFile):
    """The file as if bit line 1 of its first tile had no cells."""

    def read(self, start, stop):
        g, v, currents = super().read(start, stop)
        g[0, :, 1], currents[0, :, 1] = 0, 0
        return g, v, currents


def test_columns_without_a_figure_are_in_no_bin(sweep):
    row = evaluate_surrogates(OpenColumn(sweep.path)).rows[0]
    counts = {by: sum(b.errors.columns for b in row.bins if b.by == by) for by in ("nf", "inputs")}
    assert counts == {"nf": row.errors.columns - 2, "inputs": row.errors.columns}


def test_the_worst_circuit_is_the_tile_with_the_largest_nf_rmse(sweep):
    row = evaluate_surrogates(sweep).rows[0]
    g, v, exact = sweep.read(0, sweep.tiles)
    ideal = torch.einsum("tvi,tij->tvj", v, g)
    rmse = (1 - exact / ideal).square().flatten(1).nanmean(1).sqrt()
    assert row.worst.tile == int(rmse.nan_to_num(nan=-1).argmax())
    assert row.worst.nf_rmse_pp == pytest.approx(100 * rmse[row.worst.tile].item())
    assert row.worst.scalars["r_source"] == 500
    assert row.worst.scalars["v0"] == 0.25
    assert "4x3 SinhCell, r_source 500" in str(row.worst)


@pytest.fixture(scope="module")
def spanning(tmp_path_factory: pytest.TempPathFactory) -> SweepFile:
    config = SweepConfig(Crossbar(5, 4), WINDOW, v_max=0.25, tiles=6, vectors=3, circuits=CircuitRanges())
    return SweepFile(run_sweep(config, tmp_path_factory.mktemp("evaluate") / "spanning.h5", workers=1))


class Bindable(GeniexMLP):
    """A network of any circuit, f_R = r_source / 500, that notes what it was bound to."""

    def bound(self, crossbar, window=None, v_max=None, binary=False):
        self.info.setdefault("bound", []).append((crossbar, window, v_max))
        bound = Bindable(crossbar, window, v_max, hidden=2, r_min=crossbar.r_source / 500, r_max=5.0)
        torch.nn.init.zeros_(bound.output.weight)
        torch.nn.init.zeros_(bound.output.bias)
        return bound


def test_every_tile_of_a_spanning_sweep_is_judged_by_its_own_circuit(spanning):
    asked = Bindable(spanning.crossbar, WINDOW, 0.25, hidden=2)
    report = evaluate_surrogates(spanning, {"universal": asked})
    g, v, exact = spanning.read(0, 6)
    circuits = spanning.circuits(0, 6)
    ideal = torch.einsum("tvi,tij->tvj", v, g)
    linear = torch.stack(
        [
            circuits.crossbar(k).replace(cell=LinearCell()).solve(v[k], g[k], method="native", tol=1e-12)
            for k in range(6)
        ]
    )
    ratio = circuits.r_source[:, None, None] / 500
    rows = {row.model: row for row in report.rows}
    for name, predicted in (("ideal", ideal), ("linear", linear), ("universal", ideal / ratio)):
        assert rows[name].errors.nf_rmse_pp == pytest.approx(
            measure_current_errors(ideal, exact, predicted).nf_rmse_pp, rel=1e-8
        )
    assert [bound[0] for bound in asked.info["bound"]] == [circuits.crossbar(k) for k in range(6)]
    assert asked.info["bound"][3][1].on_off == circuits.on_off[3].item()
    assert asked.info["bound"][3][2] == circuits.v_max[3].item()


def test_a_physics_surrogate_is_programmed_for_all_circuits_at_once(spanning):
    physics = PhysicsSurrogate(spanning.crossbar, WINDOW, 0.25)
    g, v, exact = spanning.read(0, 6)
    circuits = spanning.circuits(0, 6)
    one_by_one = []
    for k in range(6):
        window = ConductanceWindow(circuits.r_on[k].item(), circuits.on_off[k].item())
        one_by_one.append(physics.bound(circuits.crossbar(k), window, circuits.v_max[k].item())(v[k], g[k]))
    expected = measure_current_errors(torch.einsum("tvi,tij->tvj", v, g), exact, torch.stack(one_by_one))
    rows = {row.model: row for row in evaluate_surrogates(spanning, {"physics": physics}).rows}
    assert rows["physics"].errors.nf_rmse_pp == pytest.approx(expected.nf_rmse_pp, rel=1e-6)
    assert rows["physics"].errors.nf_rmse_pp < 0.1 * rows["linear"].errors.nf_rmse_pp


def test_a_surrogate_of_one_circuit_is_refused_on_many(spanning):
    with pytest.raises(CheckpointError, match=r"surrogate one: .*r_source"):
        evaluate_surrogates(spanning, {"one": GeniexMLP(spanning.crossbar, WINDOW, 0.25, hidden=2)})


def test_a_set_is_all_of_its_files(tmp_path: Path, capsys):
    common = SweepConfig(Crossbar(2, 2), WINDOW, v_max=0.25, tiles=3, vectors=2, circuits=CircuitRanges())
    cells = (SinhCell(), OneTransistorOneResistor(SinhCell(), r_access=1e3))
    index = run_sweep_set(SweepSet(shapes=((3, 4), (5, 2)), cells=cells, common=common), tmp_path / "set", workers=1)
    report = evaluate_surrogates(tmp_path / "set")
    files = SweepIndex(index).files
    assert (report.files, report.tiles, report.vectors) == (4, 12, (2,))
    assert report.digest == SweepIndex(index).digest
    # The ideal product's NF is 0: its error is the exact NF, over all columns of all files.
    nf = []
    for file in files:
        g, v, exact = file.read(0, 3)
        nf.append((1 - exact / torch.einsum("tvi,tij->tvj", v, g)).flatten())
    ideal, linear = report.rows[:2]
    assert ideal.errors.nf_rmse_pp == pytest.approx(100 * torch.cat(nf).square().nanmean().sqrt().item())
    assert ideal.errors.columns == 2 * 3 * 2 * (4 + 2)  # cells, tiles, vectors, columns
    assert (ideal.worst.file, ideal.worst.rows) in {(file.path.name, file.crossbar.rows) for file in files}
    assert linear.worst.scalars["r_access"] >= 0
    assert main(["evaluate", str(index), "--json", str(tmp_path / "out.json")]) == 0
    assert "12 tiles x 2 vectors" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["files"] == 4
    with pytest.raises(InputError, match="the split of a set of sweeps is unknown"):
        evaluate_surrogates(index, [GeniexMLP(Crossbar(3, 4), WINDOW, 0.25, hidden=2)], held_out=True)


def test_alpha_beta_is_left_out_without_calibration(sweep):
    assert [row.model for row in evaluate_surrogates(sweep, calibration=0).rows] == ["ideal", "linear", "DMR"]
    for wrong in (1, -2):
        with pytest.raises(InputError, match=f"calibration: got {wrong}"):
            evaluate_surrogates(sweep, calibration=wrong)


def test_comparison_holds_the_nf_that_the_report_is_made_of(sweep):
    comparison = compare(sweep)
    for row in comparison.report.rows:
        error = comparison.predicted_nf[row.model] - comparison.exact_nf
        assert 100 * error.square().nanmean().sqrt().item() == pytest.approx(row.errors.nf_rmse_pp)
    assert comparison.predicted_nf["ideal"].abs().nan_to_num().max() < 1e-14


@pytest.mark.slow
def test_plots_and_json_of_the_command_line(sweep, tmp_path: Path, capsys):
    argv = ["evaluate", str(sweep.path), "--plots", str(tmp_path / "plots"), "--json", str(tmp_path / "out.json")]
    assert main([*argv, "--calibration", "4"]) == 0
    out = capsys.readouterr().out
    for words in ("NF-RMSE in pp by share of zero inputs", "Worst circuit of DMR", "predicted-alpha-beta.png"):
        assert words in out.replace("\n", "")
    names = {
        "predicted-ideal",
        "errors-linear",
        "predicted-DMR",
        "errors",
        "by-nf",
        "by-cells",
        "by-inputs",
        "by-voltage",
    }
    assert names <= {path.stem for path in (tmp_path / "plots").glob("*.png")}
    report = json.loads((tmp_path / "out.json").read_text())
    assert {"data", "digest", "files", "tiles", "vectors", "held_out", "calibration", "rows"} == set(report)
    assert report["calibration"] == 4
    row = report["rows"][0]
    figures = {"nf_rmse_pp", "relative_rms", "relative_p999", "relative_max", "columns"}
    assert set(row) == {"model", "seen", "bins", "worst"} | figures
    assert set(row["bins"][0]) == {"by", "bin"} | figures
    assert {"file", "tile", "nf_rmse_pp", "rows", "cols", "cell", "scalars"} == set(row["worst"])


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values >= low) & (values < high)


def _one(sweep: SweepFile, tile: int) -> tuple[torch.Tensor, ...]:
    return tuple(part[0] for part in sweep.read(tile, tile + 1))
