"""``geniex fit`` from files to files, on a data set of a few images."""

import json
from pathlib import Path

import pytest
import torch

from geniex.cli.main import main
from geniex.networks import ImageSet, load_network


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (256, 1, 28, 28), dtype=torch.uint8)
    few = ImageSet(pixels, torch.arange(256) % 10)
    monkeypatch.setattr("geniex.networks.load_images", lambda name, train, root: few)


@pytest.mark.usefixtures("few_images")
def test_fit_writes_a_network_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "net"
    assert main(["fit", "--epochs", "1", "--seed", "5", "--out", str(out)]) == 0
    assert load_network(out)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    info = json.loads(out.with_suffix(".json").read_text())["info"]
    assert info["settings"]["epochs"] == 1
    assert info["settings"]["seed"] == 5
    assert f"{100 * info['accuracy']:.2f} % of 256 test images" in capsys.readouterr().out


@pytest.mark.usefixtures("few_images")
def test_files_have_the_networks_name_and_are_told_by_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--network", "fashion-resnet20", "--epochs", "1"]) == 0
    assert main(["fit", "--epochs", "1", "--out", "net.json"]) == 0
    said = capsys.readouterr().out
    stems = ["fashion-resnet20", "net"]
    assert all(f"saved {stem}.safetensors and {stem}.json\n" in said for stem in stems)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{s}.{e}" for s in stems for e in ("json", "safetensors")]


@pytest.mark.parametrize("options", [["--network", "resnet"], ["--data", "imagenet"], ["--epochs", "0"]])
def test_wrong_options_are_told_in_one_line(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *options, "--out", str(tmp_path / "new" / "net")]) == 2
    assert not (tmp_path / "new").exists()
    said = capsys.readouterr().err
    assert options[1] in said
    assert said.count("\n") == 1
