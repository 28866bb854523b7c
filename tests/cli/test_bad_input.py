"""Wrong files, values and places on the command line: one line that names them, exit status 2, no work wasted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

import geniex.cli._files
from geniex.cli.main import main
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.preset import presets
from geniex.surrogate import GeniexMLP, save_surrogate

REFERENCE = Path(__file__).parents[2] / "spice_data" / "reference-16.h5"
PREDICT = ("predict", "--images", "4", "--circuit-images", "2")


def refusal(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line that the command says on standard error, without its name."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix(f"geniex {argv[0]}: ").strip()


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("preset: [a]", "preset: got ['a']; the presets are geniex-16"),
        ("crossbar: {rows: 4, cols: 4, cell: {_type: [a]}}", "_type: got ['a']; it must be one of"),
        ("crossbar: {rows: 4, cols: 4, r_wire: .nan}", "r_wire: got nan"),
        ("window: {r_on: 1e-5, on_off: 6}", "r_on: got 1e-05; it must be a finite number at least 1 ohm"),
        ("window: {r_on: 1e5, on_off: 0.5}", "on_off: got 0.5"),
        ("v_max: 250", "v_max: got 250; volts are expected, at most 100; is this in millivolt?"),
        ("tile: 3", "tile: got an unknown field"),
    ],
)
def test_sweep_configurations(yaml: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        "crossbar": "{rows: 4, cols: 4}",
        "window": "{r_on: 1e5, on_off: 6}",
        "v_max": "0.25",
        "tiles": "4",
        "vectors": "2",
    }
    key, value = yaml.split(": ", 1)
    if key == "preset":
        given = {name: given[name] for name in ("tiles", "vectors")}
    config = tmp_path / "sweep.yaml"
    config.write_text("\n".join(f"{k}: {v}" for k, v in (given | {key: value}).items()))
    line = refusal(capsys, "sweep", config, "--out", tmp_path / "sweep.h5")
    assert line.startswith(f"{config}: ")
    assert said in line
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_files_that_are_no_sweeps(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, truncated, foreign = REFERENCE.read_bytes(), tmp_path / "truncated.h5", tmp_path / "foreign.h5"
    truncated.write_bytes(whole[: len(whole) // 2])
    with h5py.File(foreign, "w") as file:
        file["x"] = [1.0]
    for path, said in (truncated, "truncated"), (foreign, "not a finished sweep"), (tmp_path, "no such file"):
        line = refusal(capsys, verb, path)
        assert str(path) in line
        assert said in line


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--device", "nonsense"), "device: got 'nonsense'"),
        (("--device", "meta"), "device: got 'meta'; this machine cannot use it"),
        (("--preset", "geniex-17"), "preset: got 'geniex-17'; the presets are"),
        (
            ("--network", "resnet-99"),
            "network: got 'resnet-99'; no such file; the shipped networks are fashion-cnn",
        ),
        (("--data", "mnist"), "'mnist'; the data sets are fashion-mnist"),
        (("--data", "digits"), "data: got 'digits' of shape (1, 8, 8); fashion-cnn takes images of (1, 28, 28)"),
        (("--seed", "-1"), "seed: got -1"),
        (("--workers", "0"), "workers: got 0"),
        (("--executor", "slurm"), "executor: got slurm; it must be one of 'local', 'ray'"),
        (("--weight-bits", "-1"), "weight_bits: got -1"),
        (("--offset", "none"), "offset: got none; it must be one of 'analog_difference', 'reference_column'"),
        (("--images", "many"), "images: got many; it must be int"),
    ],
)
def test_predictions(argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refusal(capsys, *PREDICT, *argv)


def test_a_surrogate_of_another_crossbar_is_named_with_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = presets["geniex-32"]
    path = save_surrogate(GeniexMLP(preset.crossbar, preset.window, preset.v_max, hidden=2), tmp_path / "mlp")
    line = refusal(capsys, "evaluate", REFERENCE, "--surrogate", path)
    assert line.startswith(f"surrogate {path}: this surrogate was trained for rows=32 and not 16")


@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (("train", REFERENCE), "out"),
        (("train", REFERENCE, "--out", "mlp"), "csv"),
        (("evaluate", REFERENCE), "json"),
        (("fit", "--epochs", "1"), "out"),
        (PREDICT, "out"),
        (PREDICT, "json"),
        (("doctor",), "json"),
    ],
)
def test_places_that_cannot_be_written_are_refused_before_any_work(
    argv: tuple[Any, ...], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    line = refusal(capsys, *argv, f"--{option}", tmp_path / "file" / "below" / "it")
    assert line.startswith(option.replace("-", "_") + ": got ")
    assert str(tmp_path / "file") in line


def test_a_place_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geniex.cli._files.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"json: got .*not writable"):
        geniex.cli._files.check_file("json", tmp_path / "report.json")
    with pytest.raises(InputError, match=r"json: got .*is a folder"):
        geniex.cli._files.check_file("json", tmp_path)


def test_folders_of_reports_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "folder" / "report.json"
    assert main(["evaluate", str(REFERENCE), "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "NF-RMSE, pp" in shown
    assert [row["model"] for row in json.loads(path.read_text())["rows"]][:2] == ["ideal", "linear"]


@pytest.mark.parametrize("argv", [["--surrogate", "a", "--surrogate", "b"], ["--surrogate=a", "--surrogate=b"]])
def test_options_that_take_several_are_repeated(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from geniex.study import surrogate_errors as evaluate

    class Seen(Exception): ...

    def compare(data: Path, surrogates: list[str], **options: object) -> None:
        raise Seen(surrogates)

    monkeypatch.setattr(evaluate, "compare", compare)
    with pytest.raises(Seen) as seen:
        main(["evaluate", str(REFERENCE), *argv])
    assert seen.value.args == (["a", "b"],)


def test_v_max_in_millivolt_is_refused_by_architectures_too() -> None:
    from geniex.mapping import Architecture

    with pytest.raises(InputError, match="millivolt"):
        Architecture(window=ConductanceWindow(1e5, 6.0), v_max=250.0)
    assert Architecture(v_max=torch.pi).v_max == torch.pi
