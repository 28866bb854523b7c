"""The real command, killed with SIGKILL and run again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from geniex.circuit.spice import ngspice_version
from geniex.cli.main import main
from geniex.sweep import CircuitRanges, SweepConfig, SweepIndex, SweepSet, run_sweep, run_sweep_set

TILES, SHARD = 400, 4


@pytest.fixture
def many(small: SweepConfig) -> SweepConfig:
    """Enough shards that a kill always finds the sweep at work."""
    return small.replace(tiles=TILES, shard_tiles=SHARD)


@pytest.fixture
def config_path(many: SweepConfig, tmp_path: Path) -> Path:
    path = tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump(many.to_dict()))
    return path


def _start(config: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "geniex.cli.main", "sweep", str(config), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _kill_when(process: subprocess.Popen[str], moment: Callable[[], bool]) -> list[int]:
    """SIGKILL the process at that moment; the children it leaves behind."""
    deadline = time.monotonic() + 120
    while not moment():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    left = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return left


def _shards(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("*.h5")}


@pytest.mark.slow
def test_killed_sweep_resumes_and_equals_an_uninterrupted_one(
    many: SweepConfig, config_path: Path, tmp_path: Path, content
) -> None:
    whole, out, summary = tmp_path / "whole.h5", tmp_path / "killed.h5", tmp_path / "summary.json"
    run_sweep(many, whole, workers=1)
    directory, merging = tmp_path / "killed.h5.shards", tmp_path / "killed.h5.shards" / "merged.tmp"

    _kill_when(_start(config_path, out, "--workers", "1"), lambda: len(_shards(directory)) >= 1)
    first = _shards(directory)
    assert 1 <= len(first) < TILES // SHARD

    more = len(first) + 10
    orphans = _kill_when(_start(config_path, out, "--workers", "2"), lambda: len(_shards(directory)) >= more)
    _wait_until_gone(orphans)
    second = _shards(directory)
    assert first.items() <= second.items()  # no finished tile was solved again
    assert more <= len(second) < TILES // SHARD

    _kill_when(_start(config_path, out, "--workers", "1"), merging.exists)
    third = _shards(directory)
    assert second.items() <= third.items()
    assert len(third) == TILES // SHARD
    assert not out.exists()

    process = _start(config_path, out, "--workers", "1", "--json", str(summary))
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert f"{TILES} tiles resumed" in stdout
    assert json.loads(summary.read_text())["resumed_tiles"] == TILES
    assert content(out) == content(whole)
    assert not directory.exists()


@pytest.mark.slow
def test_killed_set_resumes_and_equals_an_uninterrupted_one(many: SweepConfig, tmp_path: Path, content) -> None:
    common = many.replace(circuits=CircuitRanges(), tiles=80)
    sweeps, config = SweepSet(((5, 3), (3, 4), (4, 4)), (many.crossbar.cell,), common), tmp_path / "set.yaml"
    config.write_text(yaml.safe_dump(sweeps.to_dict()))
    run_sweep_set(sweeps, tmp_path / "whole", workers=1)
    out, summary = tmp_path / "killed", tmp_path / "summary.json"
    first, second = out / "5x3-sinh.h5", out / "3x4-sinh.h5.shards"
    begun = lambda: first.exists() and len(_shards(second)) >= 3  # noqa: E731
    _wait_until_gone(_kill_when(_start(config, out, "--workers", "2"), begun))
    assert not (out / "index.json").exists()
    process = _start(config, out, "--workers", "2", "--json", str(summary))
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert 80 + 3 * SHARD <= json.loads(summary.read_text())["resumed_tiles"] < 240
    for name in sweeps.sweeps():
        assert content(out / name) == content(tmp_path / "whole" / name)
    assert SweepIndex(out).digest == SweepIndex(tmp_path / "whole").digest


def _wait_until_gone(pids: list[int]) -> None:
    """Workers end with their parent and do not linger."""
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("verify", ["4", "ngspice:4"])
def test_summary_and_verification(
    small: SweepConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], verify: str
) -> None:
    config, out, summary = tmp_path / "a.yaml", tmp_path / "a.h5", tmp_path / "a.json"
    config.write_text(yaml.safe_dump(small.to_dict()))
    options = ["--out", str(out), "--workers", "1", "--verify", verify, "--json", str(summary)]
    assert main(["sweep", str(config), *options]) == 0
    said, result = capsys.readouterr().out, json.loads(summary.read_text())
    assert "21 tiles x 3 vectors in" in said
    assert str(out) in said
    assert result["config"] == small.to_dict()
    if ngspice_version() is None:
        assert "not verified against ngspice" in said
    else:
        assert result["verification"]["worst_deviation"] < 1e-8


def test_output_is_named_after_the_configuration(
    small: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(small.to_dict()))
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "mine.yaml", "--workers", "1"]) == 0
    assert (tmp_path / "mine.h5").exists()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("tiles: 3", [], "config.crossbar: got no value"),
        ("preset: geniex-16\ntiles: 3\nvectors: 1\ncolour: red", [], "SweepConfig.colour: got an unknown field"),
        ("{preset: geniex-16, tiles: 3, vectors: 1}", ["--workers", "0"], "workers: got 0"),
        ("{preset: geniex-16, tiles: 3, vectors: 1}", ["--out", "none/a.h5"], "out: got none/a.h5"),
        ("{preset: geniex-16, tiles: 3, vectors: 1}", ["--verify", "0"], "verify: got '0'; it must be a number"),
        ("{preset: geniex-16, tiles: 3, vectors: 1}", ["--verify", "hspice:9"], "verify: got 'hspice:9'"),
        ("{preset: geniex-16, tiles: 3, vectors: 1}", ["--verify", "ngspice:"], "verify: got 'ngspice:'"),
    ],
)
def test_errors_are_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, options: list[str], message: str
) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    out = [] if "--out" in options else ["--out", str(tmp_path / "a.h5")]
    assert main(["sweep", str(config), *out, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("geniex sweep: ")
    assert message in error
    assert error.count("\n") == 1


def test_output_in_place_of_a_foreign_file_is_refused(
    small: SweepConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "a.yaml", tmp_path / "a.h5"
    config.write_text(yaml.safe_dump(small.to_dict()))
    out.write_text("precious")
    assert main(["sweep", str(config), "--out", str(out)]) == 2
    assert "truncated or damaged, or is not a finished sweep" in capsys.readouterr().err
    assert out.read_text() == "precious"
