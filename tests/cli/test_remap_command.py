"""``geniex remap`` from files to files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from geniex.cli._remap_report import notes
from geniex.cli.main import main
from geniex.networks import ImageSet
from geniex.study.configs import config_path, shipped_configs
from geniex.study.remap_table import RemapRow
from geniex.study.remapping import RemapStudy

FAST = ["--preset", "geniex-64", "--images", "20", "--calibration_images", "16", "--method", "srs", "--method", "mdm"]


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of few images that needs no file."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (300, 1, 28, 28), dtype=torch.uint8, generator=generator)
    few = ImageSet(pixels, torch.arange(300) % 10)
    monkeypatch.setattr("geniex.cli.remap.load_images", lambda name, train, root: few)


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_it_compares_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["remap", "--network", "fashion-cnn", *FAST, "--circuit_positions", "2", "--control", "gain"]
    assert main([*command, "--out", str(out), "--json", str(tmp_path / "told.json")]) == 0
    said = capsys.readouterr().out
    for words in ("Remapping: fashion-cnn on fashion-mnist, geniex-64", "gains and offsets", "one order, tau"):
        assert words in said
    assert "Drop: accuracy on ideal tiles less that on tiles with wires" in " ".join(said.split())
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == json.loads((out / "report.json").read_text())
    assert [row["method"] for row in told["rows"]][:5] == ["float", "ideal", "none", "srs", "mdm"]
    assert told["asked"]["network"] == ["fashion-cnn"]
    assert told["circuit"][0]["positions"] == 2
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for words in ("mdm", "gains and offsets", "Nothing is retrained"):
        assert words in page
        assert words in text
    assert (out / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert any((out / "kept").iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_the_same_command_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["remap", "--network", "fashion-cnn", *FAST, "--control", "gain", "--out", str(tmp_path)]
    assert main(command) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("geniex.study.remapping.remap", lambda *given, **options: pytest.fail("mapped again"))
    assert main(command) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--preset", "wires"], "preset: got 'wires'; presets are geniex-16"),
        (["--method", "best"], "method: got 'best'; methods are none, random"),
        (["--control", "bn"], "control"),
        (["--combined", "l2"], "combined"),
        (["--images", "0"], "images: got 0"),
        (["--images", "301"], "images: got 301; give 1 to 300"),
        (["--calibration_images", "300"], "calibration_images: got 300"),
        (["--device", "cuda:99"], "device: got 'cuda:99'; this machine cannot use it"),
        (["--network", "fashion-cnn", "--network", "models/fashion-cnn"], "network"),
        (["--network", "no-such"], "network: got 'no-such'; no such file"),
        (["--seed", "-1"], "seed: got -1"),
        (["--config", "no-such.yaml"], "no-such.yaml"),
    ],
)
@pytest.mark.usefixtures("few_images")
def test_what_it_cannot_do_is_told_in_a_line(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["remap", "--network", "fashion-cnn", "--images", "20", "--out", str(out), *options]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.usefixtures("few_images")
def test_unknown_surrogates_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["remap", "--network", "fashion-cnn", "--images", "20", "--surrogate", "magic"]) == 2
    assert "'magic'" in capsys.readouterr().err


@pytest.mark.usefixtures("few_images")
def test_images_of_another_shape_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = ImageSet(torch.zeros(300, 1, 8, 8, dtype=torch.uint8), torch.arange(300) % 10)
    monkeypatch.setattr("geniex.cli.remap.load_images", lambda name, train, root: digits)
    assert main(["remap", "--network", "fashion-cnn", "--data", "digits"]) == 2
    assert "fashion-cnn takes images of (1, 28, 28)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_options_come_from_a_file_and_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mine.yaml"
    asked = {"network": ["fashion-cnn"], "preset": "geniex-64", "method": ["srs"], "images": 20, "control": []}
    config.write_text(yaml.safe_dump(asked | {"calibration_images": 16}))
    told = tmp_path / "told.json"
    assert main(["remap", "--config", str(config), "--images", "10", "--json", str(told)]) == 0
    rows = json.loads(told.read_text())["rows"]
    assert [(row["method"], row["images"]) for row in rows] == [(m, 10) for m in ("float", "ideal", "none", "srs")]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nope.yaml", "config: got nope.yaml; no such file; shipped are xchangr.yaml"),
        ("sparse-xbar.yaml", "this one ships for geniex study; shipped are xchangr.yaml"),
    ],
)
@pytest.mark.parametrize("form", [["--config={}"], ["--config", "{}"]])
def test_only_configurations_that_it_can_run_are_offered(
    name: str, told: str, form: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["remap", *(word.format(name) for word in form)]) == 2
    said = capsys.readouterr().err
    assert said.endswith(f"{told}\n")
    assert said.count("\n") == 1


def test_the_shipped_study_asks_for_what_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its options reach the study, here and with the data and the networks of CIFAR-10 alone changed."""
    asked: list[dict[str, object]] = []

    def study(networks: dict[str, object], training: ImageSet, tests: ImageSet, setting: object, **options: object):
        asked.append({"networks": list(networks), "images": len(tests), "setting": setting})
        raise KeyboardInterrupt

    assert "xchangr.yaml" in shipped_configs("remap")
    monkeypatch.setattr("geniex.cli.remap.study_remapping", study)
    monkeypatch.setattr("geniex.cli.remap.load_images", _images)
    assert main(["remap", "--config", "xchangr.yaml"]) == 130
    from geniex.networks import NETWORKS, save_network

    save_network("cifar10-vgg16", NETWORKS["cifar10-vgg16"].make(), tmp_path / "vgg16-0", {})
    text = config_path("remap", "xchangr.yaml").read_text()
    text = text.replace("[fashion-vgg-0, fashion-vgg-1, fashion-vgg-2]", f"[{tmp_path / 'vgg16-0'}]")
    (tmp_path / "cifar.yaml").write_text(text.replace("data: fashion-mnist", "data: cifar10"))
    assert main(["remap", "--config", str(tmp_path / "cifar.yaml")]) == 130
    capsys.readouterr()
    here, there = asked
    assert here["networks"] == ["fashion-vgg-0", "fashion-vgg-1", "fashion-vgg-2"]
    assert there["networks"] == ["vgg16-0"]
    assert here["setting"] == there["setting"]
    assert here["setting"].images is None
    assert here["setting"].circuit_positions >= 64


def _images(name: str, train: bool, root: Path | None) -> ImageSet:
    shape = (3, 32, 32) if name == "cifar10" else (1, 28, 28)
    return ImageSet(torch.zeros(20, *shape, dtype=torch.uint8), torch.arange(20) % 10)


def _study(srs: float | None, best: float) -> RemapStudy:
    def row(method: str, recovered: float | None, control: str | None = None) -> RemapRow:
        return RemapRow(method, control, 3, 100, 0.9, None, None, 0.05, recovered)

    rows = (row("none", None), row("srs", srs), row("assignment", best), row("none", 0.99, "gain"))
    arch = {"weight_bits": 8, "slice_bits": 4, "input_bits": 6, "stream_bits": 5, "adc_bits": 14, "adc_range": "unit"}
    told = {
        "surrogate": "physics-fast",
        "methods": {"none": {}, "srs": {}, "assignment": {}},
        "networks": ["net"],
        "steps": 20,
        "calibration_images": 256,
        "architecture": arch | {"offset": "ideal_before"},
        "preset": {"window": {"r_on": 2e4, "on_off": 10}},
    }
    return RemapStudy(rows, {}, (), (), told)


@pytest.mark.parametrize(
    ("srs", "told"),
    [
        (0.5, "srs recovers 50 %, at least the 48 % that X-CHANGR reports"),
        (
            0.25,
            "srs recovers 25 %, less than the 48 % that X-CHANGR reports for VGG16 on CIFAR-10; the most that a"
            " mapping alone reaches here is 60 % (assignment).",
        ),
        (None, "srs: nothing was lost, so nothing can be recovered."),
    ],
)
def test_the_published_shares_are_named(srs: float | None, told: str) -> None:
    assert any(note.startswith(told) for note in notes(_study(srs, 0.6)))


@pytest.mark.usefixtures("few_images")
def test_fraction_bits_without_an_accumulator_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["remap", "--network", "fashion-cnn", "--accumulator_frac_bits", "24"]) == 2
    assert "accumulator_frac_bits: got 24; give accumulator_bits, too" in capsys.readouterr().err
