"""Evaluation of models on a sweep, against figures worked out by hand and the circuit itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from geniex.cells import LinearCell
from geniex.circuit import Crossbar
from geniex.cli.main import main
from geniex.errors import CheckpointError, InputError
from geniex.mapping import ConductanceWindow
from geniex.study.evaluate import evaluate_surrogates
from geniex.study.statistics import current_errors, relative_error
from geniex.surrogate import GeniexMLP, save_surrogate, split_tiles
from geniex.sweep import SweepConfig, SweepFile, run_sweep

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
    errors = current_errors(ideal, exact, predicted)
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
    for row, predicted in zip(report.rows, (ideal, linear, ideal / 1.25), strict=True):
        expected = current_errors(ideal, exact, predicted)
        assert row.errors.columns == 30 * 2 * 3
        # The linear oracle is iterative, to 1e-12 of a current.
        assert row.errors.nf_rmse_pp == pytest.approx(expected.nf_rmse_pp, rel=1e-8)
        assert row.errors.relative_max == pytest.approx(expected.relative_max, rel=1e-8)
    assert [row.model for row in report.rows] == ["ideal", "linear", "flat"]
    assert [row.seen for row in report.rows] == [False, False, True]


def test_linear_row_is_exact_for_linear_cells(tmp_path):
    config = SweepConfig(Crossbar(4, 3, cell=LinearCell()), WINDOW, v_max=0.25, tiles=4, vectors=2)
    report = evaluate_surrogates(run_sweep(config, tmp_path / "linear.h5", workers=1))
    ideal, linear = report.rows
    assert linear.errors.relative_max < 1e-8 < 1e-3 < ideal.errors.relative_max


def test_held_out_compares_only_the_checkpoints_test_tiles(sweep, trained_here):
    report = evaluate_surrogates(sweep, {"flat": trained_here}, held_out=True)
    tiles = split_tiles(30, seed=7).test
    g, v, exact = (torch.stack(part) for part in zip(*(_one(sweep, int(t)) for t in tiles), strict=True))
    ideal = torch.einsum("tvi,tij->tvj", v, g)
    assert report.tiles == 3
    assert report.rows[2].errors.nf_rmse_pp == pytest.approx(current_errors(ideal, exact, ideal / 1.25).nf_rmse_pp)
    assert not report.rows[2].seen


def test_held_out_needs_the_surrogates_own_data(sweep, trained_here):
    trained_here.info["data"]["digest"] = "0" * 64
    with pytest.raises(InputError, match="flat was trained on other data"):
        evaluate_surrogates(sweep, {"flat": trained_here}, held_out=True)
    assert not evaluate_surrogates(sweep, {"flat": trained_here}).rows[2].seen


def test_held_out_needs_a_surrogate_and_one_split(sweep, trained_here):
    with pytest.raises(InputError, match="give the surrogates"):
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
    assert [row["model"] for row in report["rows"]] == ["ideal", "linear", str(one), str(two)]
    assert report["rows"][2]["nf_rmse_pp"] == report["rows"][3]["nf_rmse_pp"] > 0
    assert main(["evaluate", str(sweep.path), "--surrogate", str(one)]) == 0
    assert main(["evaluate", str(sweep.path), "--surrogate", "no-such"]) == 2
    assert "no-such" in capsys.readouterr().err


def test_train_command_line(sweep, tmp_path: Path, capsys):
    argv = ["train", str(sweep.path), "--out", str(tmp_path / "mlp"), "--fast_dev_run", "true"]
    assert main(argv) == 0
    assert "on 3 held-out tiles" in capsys.readouterr().out
    assert (tmp_path / "mlp.safetensors").is_file()


def _one(sweep: SweepFile, tile: int) -> tuple[torch.Tensor, ...]:
    return tuple(part[0] for part in sweep.read(tile, tile + 1))
