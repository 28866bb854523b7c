"""``geniex doctor`` on machines that have everything and on machines that lack things."""

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch

import geniex.shipped
from geniex.cli.main import main
from geniex.networks import images
from geniex.study import doctor


def _findings(tmp_path: Path, *options: str) -> dict[str, dict]:
    out = tmp_path / "doctor.json"
    assert main(["doctor", "--json", str(out), *options]) == 0
    return {finding["name"]: finding for finding in json.loads(out.read_text())}


def test_what_is_here_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = _findings(tmp_path)
    shown = capsys.readouterr().out
    assert findings["torch"]["found"] == torch.__version__
    assert findings["lightning"]["found"] == metadata.version("lightning")
    assert all(name in shown for name in findings)
    for finding in findings.values():
        assert finding["needed_for"]
        assert finding["found"] or finding["way_out"]


def test_what_is_missing_comes_with_purpose_and_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", nothing)
    monkeypatch.setattr(doctor, "ngspice_version", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(images, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    monkeypatch.setattr(geniex.shipped, "_PACKAGE", tmp_path / "geniex")
    monkeypatch.setenv("COLUMNS", "500")
    findings = _findings(tmp_path, "--root", str(tmp_path))
    shown = capsys.readouterr().out
    missing = {
        "PySpice",
        "ray",
        "matplotlib",
        "ngspice library",
        "fashion-mnist",
        "cifar10",
        "cifar100",
        "cuda",
        "any",
    }
    assert missing <= {name for name, finding in findings.items() if finding["found"] is None}
    for name in missing:
        assert findings[name]["way_out"] in shown
    # Brackets are no markup: the extra's name must reach the reader.
    assert "pip install 'geniex-crossbar[spice]'" in shown
    assert "dataset-fashion-mnist" in shown


def test_data_sets_are_looked_for_in_the_given_folder(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    findings = _findings(tmp_path, "--root", str(tmp_path))
    assert findings["cifar10"]["found"] == str(tmp_path / "cifar-10-batches-py")
    assert findings["cifar100"]["found"] is None


def test_every_graphics_card_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        name, total_memory = "A card", 80 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    findings = _findings(tmp_path)
    assert findings["cuda:0"]["found"] == findings["cuda:1"]["found"] == "A card, 80 GiB"
    assert "cuda" not in findings
