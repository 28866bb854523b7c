"""``geniex remap`` and ``geniex finetune`` from the shell: what they report, what they save, and what they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "study"))

from grid_cases import write_images

from geniex.cli.main import main
from geniex.networks import load_images, load_network
from geniex.simulator import find_crossbar_matrices, load_converted, read_arrangements
from geniex.study.grid import run_study

NETWORK = Path(__file__).parents[1] / "study" / "recorded" / "cnn-0"
SMALL = ["--preset", "geniex-16", "--images", "30"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def run(verb: str, root: Path, *options: str) -> int:
    return main([verb, "--network", str(NETWORK), "--data_root", str(root), *SMALL, *options])


def share(model: torch.nn.Module, root: Path) -> float:
    pixels, labels = load_images("fashion-mnist", train=False, root=root).subset(30, 0).batch(torch.arange(30))
    with torch.no_grad():
        return int((model(pixels).argmax(-1) == labels).sum()) / 30


def test_remap_reports_before_and_after_and_saves_the_model(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told = tmp_path / "out", tmp_path / "told.json"
    options = (
        "--method",
        "srs",
        "--calibration_images",
        "24",
        "--circuit_positions",
        "1",
        "--surrogate",
        "physics-fast",
    )
    assert run("remap", root, *options, "--out", str(out), "--json", str(told)) == 0
    said = capsys.readouterr().out
    for words in (
        "in floating point",
        "on ideal tiles",
        "on crossbars",
        "remapped",
        "Places of outputs",
        "rank agreement",
    ):
        assert words in said
    report = json.loads(told.read_text())
    assert report == json.loads((out / "report.json").read_text())
    before, after = report["summary"]
    assert (before["mitigation"], after["mitigation"]) == ("none", "srs")
    assert [row["layer"] for row in report["places"]] == ["conv1", "conv2", "conv3", "classifier"]
    assert {row["mitigation"] for row in report["layers"]} == {"none", "srs"}
    assert "Places of outputs" in (out / "report.html").read_text()
    assert (out / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "places.csv").read_text().startswith("mitigation,training,draw,layer,moved")
    assert "Places of outputs" in (out / "report.md").read_text()
    model = load_converted(out / "model", load_network(NETWORK))
    assert share(model, root) == after["accuracy"]
    moved = [
        int((places.outputs != torch.arange(len(places.outputs))).sum()) for places in read_arrangements(model).values()
    ]
    assert moved == [row["moved"] for row in report["places"]]
    assert sum(moved) > 0


def test_remap_finds_what_a_study_finds(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = tmp_path / "told.json"
    assert run("remap", root, "--method", "random", "--calibration_images", "24", "--json", str(told)) == 0
    report = json.loads(told.read_text())
    study = run_study(report["configuration"]["asked"], data_root=root)
    for row, other in zip(report["rows"], study.rows, strict=True):
        assert {**row, "seconds": None} == {**json.loads(json.dumps(other)), "seconds": None}
    assert "report:" not in capsys.readouterr().out


def test_finetune_reports_before_and_after_and_saves_the_model(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ("--steps", "2", "--batch", "16", "--left_out", "40", "--learning_rate", "3e-3", "--check_images", "10")
    assert run("finetune", root, *options, "--gradients", "ideal", "--out", str(out)) == 0
    said = capsys.readouterr().out
    for words in ("fine-tuned", "accuracy in check, %", "Learning rates", "0.003", "model.json"):
        assert words in said
    report = json.loads((out / "report.json").read_text())
    before, after = report["summary"]
    assert after["check_agreement"] >= 0.8
    assert before["check_accuracy"] is not None
    (rate,) = report["learning_rates"]
    assert (rate["learning_rate"], rate["chosen"]) == (0.003, True)
    model = load_converted(out / "model", load_network(NETWORK))
    assert share(model, root) == after["accuracy"]
    before_weights = dict(load_network(NETWORK).named_parameters())
    trained = {name: matrix for name, matrix in find_crossbar_matrices(model).items() if matrix.weight is not None}
    assert trained
    assert not any(
        torch.equal(matrix.weight, weight) for matrix in trained.values() for weight in before_weights.values()
    )


@pytest.mark.parametrize("verb", ["remap", "finetune"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--preset", "wires"], "preset: got 'wires'; presets are geniex-16"),
        (["--images", "0"], "images: got 0"),
        (["--images", "61"], "images: got 61; it must be 1 to 60, the number of images in the set"),
        (["--device", "cuda:99"], "device: got 'cuda:99'; this machine cannot use it"),
        (["--seed", "-1"], "seed: got -1"),
        (["--data", "digits", "--check_images", "10"], "takes images of shape (1, 28, 28)"),
        (["--surrogate", "magic"], "'magic'"),
        (["--check", "physics", "--check_images", "31"], "check.images: got 31; it must be at most 30"),
        (["--config", "xchangr.yaml"], "config"),
    ],
)
def test_what_they_cannot_do_is_told_in_a_line(
    verb: str, options: list[str], told: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ("--left_out", "40", "--batch", "16") if verb == "finetune" else ()
    assert run(verb, root, *given, *options, "--out", str(out)) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("verb", "options", "told"),
    [
        ("remap", ["--method", "best"], "method: got 'best'; methods are random, l1"),
        ("remap", ["--method", "none"], "method: got 'none'; methods are random"),
        ("remap", ["--calibration_images", "0"], "calibration_images: got 0"),
        ("remap", ["--accumulator_frac_bits", "24"], "accumulator_frac_bits: got 24; it needs accumulator_bits"),
        ("finetune", ["--gradients", "exact"], "gradients: got exact; it must be one of"),
        ("finetune", ["--steps", "0"], "fine_tuning.steps: got 0"),
        ("finetune", ["--left_out", "0"], "fine_tuning.left_out: got 0"),
        ("finetune", ["--left_out", "190", "--batch", "11"], "fine_tuning.batch: got 11, with 190 images"),
    ],
)
def test_options_of_one_verb_are_checked(
    verb: str, options: list[str], told: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(verb, root, "--check_images", "10", *options) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("verb", ["remap", "finetune"])
def test_no_result_is_computed_that_could_not_be_written(
    verb: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("geniex.study.grid.one_model.compute", lambda *given: pytest.fail("something was computed"))
    (tmp_path / "file").write_text("")
    options = ("--left_out", "40", "--batch", "16", "--check_images", "10") if verb == "finetune" else ()
    assert run(verb, root, *options, "--out", str(tmp_path / "file" / "out")) == 2
    assert "the folder cannot be created" in capsys.readouterr().err
    assert run(verb, root, *options, "--json", str(tmp_path)) == 2
    assert "it is a folder" in capsys.readouterr().err
