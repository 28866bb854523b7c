"""Training runs as users live them: killed, resumed, stopped early, on several devices, in half precision."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from geniex.circuit import Crossbar
from geniex.cli.main import main
from geniex.errors import CheckpointError, InputError
from geniex.mapping import ConductanceWindow
from geniex.surrogate import (
    GeniexMLP,
    TrainConfig,
    load_surrogate,
    save_surrogate,
    split_tiles,
    train_surrogate,
)
from geniex.surrogate.mlp import train as training
from geniex.surrogate.mlp.train import held_out_nf_rmse
from geniex.sweep import CircuitRanges, SweepConfig, SweepFile, run_sweep

# Every test trains.
pytestmark = pytest.mark.slow

CONFIG = TrainConfig(hidden=64, epochs=6, batch_tiles=32, lr=3e-3)
OPTIONS = ["--hidden", "64", "--epochs", "6", "--batch-tiles", "32", "--lr", "3e-3"]


class Stop(Exception):
    """What ends a run half way."""


def stop_at(epoch: int, error: type[BaseException] = Stop):
    def on_epoch(now: int, figure: float) -> None:
        if now == epoch:
            raise error

    return on_epoch


def assert_same(a: GeniexMLP, b: GeniexMLP) -> None:
    assert a.info == b.info
    for name, tensor in a.state_dict().items():
        assert tensor.dtype is b.state_dict()[name].dtype
        assert torch.equal(tensor, b.state_dict()[name]), name


@pytest.fixture(scope="module")
def whole(small_sweep: Path) -> GeniexMLP:
    """The result of a run that nothing interrupts."""
    return train_surrogate(small_sweep, CONFIG)


@pytest.fixture
def stopped(small_sweep: Path, tmp_path: Path) -> Path:
    """The state of a run that died in its fourth epoch."""
    with pytest.raises(Stop):
        train_surrogate(small_sweep, CONFIG, state=tmp_path / "state", csv=tmp_path / "log.csv", on_epoch=stop_at(4))
    return tmp_path / "state"


def test_a_resumed_run_ends_with_the_weights_and_the_log_of_an_uninterrupted_one(small_sweep, tmp_path, whole, stopped):
    epochs: list[int] = []
    resumed = train_surrogate(
        small_sweep, CONFIG, state=stopped, resume=True, csv=tmp_path / "log.csv",
        on_epoch=lambda epoch, figure: epochs.append(epoch),
    )  # fmt: skip
    assert epochs == [4, 5, 6]
    assert_same(resumed, whole)
    train_surrogate(small_sweep, CONFIG, csv=tmp_path / "whole.csv")
    assert (tmp_path / "log.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_a_run_may_be_resumed_before_it_began_and_after_it_ended(small_sweep, tmp_path, whole):
    for _ in range(2):
        assert_same(train_surrogate(small_sweep, CONFIG, state=tmp_path, resume=True), whole)


@pytest.mark.slow
def test_a_killed_command_loses_no_finished_epoch(small_sweep, tmp_path, whole):
    """SIGKILL at whatever moment the second epoch is at, twice; then the same command to the end."""
    argv = ["train", str(small_sweep), "--out", str(tmp_path / "mlp"), "--resume", *OPTIONS]
    log, last = tmp_path / "log.csv", tmp_path / "mlp.training" / "last.ckpt"
    for _ in range(2):
        before = last.stat().st_mtime_ns if last.exists() else 0
        code = f"from geniex.cli.main import main; main({[*argv, '--csv', str(log)]})"
        process = subprocess.Popen([sys.executable, "-c", _slowed(code)], stderr=subprocess.DEVNULL)
        while process.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = len(log.read_text().splitlines()) - 1
    assert 2 <= done < CONFIG.epochs
    assert main(argv) == 0
    assert_same(load_surrogate(tmp_path / "mlp"), whole)
    assert sorted(os.listdir(tmp_path)) == ["log.csv", "mlp.json", "mlp.safetensors"]


def _slowed(code: str) -> str:
    """The command with epochs that take long enough to be killed in."""
    return (
        "import time, lightning; from geniex.surrogate.mlp.callbacks import EpochLog\n"
        "EpochLog.on_train_epoch_start = lambda *_: time.sleep(0.5)\n" + code
    )


def test_an_unfinished_run_is_not_overwritten_unasked(small_sweep, stopped):
    with pytest.raises(InputError, match=r"resume: got False; .*holds an unfinished training"):
        train_surrogate(small_sweep, CONFIG, state=stopped)
    with pytest.raises(InputError, match="resume: got True; give the folder"):
        train_surrogate(small_sweep, CONFIG, resume=True)


def test_another_run_is_not_resumed(small_sweep, stopped):
    with pytest.raises(CheckpointError, match=r"another training, with other epochs, lr"):
        train_surrogate(small_sweep, CONFIG.replace(epochs=9, lr=1e-3), state=stopped, resume=True)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_state(small_sweep, stopped, content):
    last = stopped / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100] if content is None else content)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged or foreign"):
        train_surrogate(small_sweep, CONFIG, state=stopped, resume=True)


def test_nothing_in_a_state_is_executed(small_sweep, stopped):
    torch.save({"x": Stop()}, stopped / "last.ckpt")
    with pytest.raises(CheckpointError, match="damaged or foreign"):
        train_surrogate(small_sweep, CONFIG, state=stopped, resume=True)


def test_the_best_epoch_is_kept_and_not_the_last(small_sweep, monkeypatch):
    """A learning rate below zero climbs: the last epoch is spoiled."""
    monkeypatch.setattr(training, "one_cycle", lambda step, steps: 1.0 if step < 0.9 * steps else -1.0)
    figures: list[float] = []
    config = CONFIG.replace(epochs=9)
    surrogate = train_surrogate(small_sweep, config, on_epoch=lambda epoch, figure: figures.append(figure))
    assert min(figures) < figures[-1]
    sweep = SweepFile(small_sweep)
    found = held_out_nf_rmse(surrogate, sweep, split_tiles(sweep.tiles, config.seed).val)["nf_rmse_pp"]
    assert found == pytest.approx(min(figures), rel=1e-4)  # float32 in training, float64 here


def test_patience_ends_a_run_that_no_longer_improves(small_sweep):
    config = CONFIG.replace(lr=1e-30, epochs=9)  # no step changes a float32 weight
    assert train_surrogate(small_sweep, config.replace(patience=3)).info["epochs"] == 4
    assert train_surrogate(small_sweep, config).info["epochs"] == 9


def test_ctrl_c_is_told_as_such_and_works_again_afterwards(small_sweep):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_surrogate(small_sweep, CONFIG, on_epoch=stop_at(1, KeyboardInterrupt))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_diverged_run_says_what_to_do(small_sweep):
    with pytest.raises(InputError, match="lr: got 1e\\+30; the training diverged"):
        train_surrogate(small_sweep, CONFIG.replace(lr=1e30, epochs=1))


def test_a_sweep_that_spans_circuits_is_refused(tmp_path):
    """The network has no input that tells one circuit from another."""
    crossbar, window = Crossbar(4, 4), ConductanceWindow(100e3, 6.0)
    config = SweepConfig(crossbar, window, v_max=0.25, tiles=3, vectors=1, circuits=CircuitRanges())
    path = run_sweep(config, tmp_path / "span.h5", workers=1)
    with pytest.raises(InputError, match=r"data: got .*its circuits differ"):
        train_surrogate(path, CONFIG)


def test_devices_that_are_not_there(small_sweep):
    with pytest.raises(
        InputError, match="accelerator, devices, strategy: got 'abacus', 1, 'auto'; Lightning refuses them: "
    ):
        train_surrogate(small_sweep, CONFIG, accelerator="abacus")


@pytest.mark.slow
def test_two_processes_share_an_epoch(small_sweep, tmp_path, capfd, monkeypatch):
    """Data parallel on the CPU: each process takes every second tile, and one result is written."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    argv = ["train", str(small_sweep), "--out", "mlp", "--csv", "log.csv", *OPTIONS]
    command = [
        sys.executable,
        "-m",
        "geniex.cli.main",
        *argv,
        "--accelerator",
        "cpu",
        "--devices",
        "2",
        "--strategy",
        "ddp",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert sorted(os.listdir(tmp_path)) == ["log.csv", "mlp.json", "mlp.safetensors"]
    assert capfd.readouterr().out.count("held-out tiles") == 1
    info = load_surrogate(tmp_path / "mlp").info
    assert info["held_out"]["nf_rmse_pp"] < 0.8 * info["held_out"]["ideal_nf_rmse_pp"]
    assert info["epochs"] == len((tmp_path / "log.csv").read_text().splitlines()) - 1 == CONFIG.epochs


def test_half_precision_halves_the_file_and_hardly_costs(small_sweep, whole, tmp_path):
    half = train_surrogate(small_sweep, CONFIG.replace(half=True))
    for name, tensor in half.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name].half().float())
    held_out = half.info["held_out"]
    assert held_out["float32_nf_rmse_pp"] == whole.info["held_out"]["nf_rmse_pp"]
    assert held_out["nf_rmse_pp"] != held_out["float32_nf_rmse_pp"]
    assert held_out["nf_rmse_pp"] == pytest.approx(held_out["float32_nf_rmse_pp"], rel=0.01)
    sizes = []
    for surrogate in (whole, half):
        weights = save_surrogate(surrogate, tmp_path / "mlp").with_suffix(".safetensors")
        sizes.append(sum(t.nbytes for t in safetensors.torch.load_file(weights).values()))
        assert_same(load_surrogate(weights), surrogate)
    assert sizes[1] == sizes[0] / 2


def test_half_precision_that_costs_too_much_is_not_used(small_sweep, whole, monkeypatch):
    monkeypatch.setattr("geniex.surrogate.mlp.train._ROUNDING", -0.5)
    kept = train_surrogate(small_sweep, CONFIG.replace(half=True))
    assert kept.info["held_out"] == whole.info["held_out"]
    assert torch.equal(kept.hidden.weight, whole.hidden.weight)
