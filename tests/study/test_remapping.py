"""Remapping studies on a network small enough to follow: what is reported is what was done, and kept as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from geniex.circuit import Crossbar
from geniex.emulator import IdealEmulator, SurrogateEmulator
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.mitigation import REMAPPINGS, Batch, correct_outputs, refit_batch_norm, remap
from geniex.networks import ImageSet, load_images
from geniex.preset import Preset
from geniex.simulator import convert
from geniex.study import remapping
from geniex.study.remapping import RemapSetting, RemapStudy, row_label, study_remapping

# Every test runs a study.
pytestmark = pytest.mark.slow

SMALL = Preset(
    Crossbar(64, 64, r_source=0.0, r_sink=0.0, r_wire=10.0), ConductanceWindow(20e3, 10.0), 0.25, "wires, for tests"
)
ARCH = SMALL.architecture(weight_bits=8, input_bits=6, slice_bits=4, stream_bits=5, adc_range="full_scale")
METHODS = ("none", "random", "srs", "drs_taylor", "assignment")


def images(train: bool) -> ImageSet:
    return load_images("digits", train=train)


def trained(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(1, 24, 3, stride=2, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)
        )
        pixels, labels = images(True).batch(torch.arange(len(images(True))))
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-2)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(pixels), labels).backward()
            optimizer.step()
    return network.eval()


def setting(**changes: Any) -> RemapSetting:
    options: dict[str, Any] = {
        "preset": SMALL,
        "architecture": ARCH,
        "surrogate": "physics-fast",
        "methods": {name: REMAPPINGS[name] for name in METHODS},
        "controls": ("gain", "batch_norm", "fine_tuning"),
        "combined": ("assignment",),
        "images": 100,
        "combined_images": 60,
        "calibration_images": 48,
        "steps": 2,
        "circuit_positions": 4,
    }
    return RemapSetting(**(options | changes))


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {f"net-{seed}": trained(seed) for seed in range(2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def study(networks: dict[str, nn.Module], folder: Path) -> RemapStudy:
    return study_remapping(networks, images(True), images(False), setting(), work=folder)


def test_rows_are_mappings_then_controls(study: RemapStudy) -> None:
    told = [(row.method, row.control) for row in study.rows]
    plain = [(name, None) for name in ("float", "ideal", *METHODS)]
    both = [(m, c) for c in ("gain", "batch_norm") for m in ("none", "assignment")]
    assert told == [*plain, *both, ("none", "fine_tuning")]
    assert all(row.networks == 2 for row in study.rows)
    assert {row.images for row in study.rows if row.control is None} == {100}
    assert {row.images for row in study.rows if row.control} == {60}


def test_rows_are_what_the_same_steps_give_by_hand(study: RemapStudy, networks: dict[str, nn.Module]) -> None:
    pixels, labels = images(False).subset(100, 0).batch(torch.arange(100))
    calibration = images(True).subset(256, 0).batch(torch.arange(256))
    batch = Batch(calibration[0][:48], calibration[1][:48])
    net = networks["net-1"]
    base = convert(net, ARCH, SurrogateEmulator("physics-fast", SMALL.crossbar), calibration=calibration[0])
    assignment = remap(base, "assignment", batch).model
    by_hand = {
        "float": net,
        "ideal": convert(net, ARCH, IdealEmulator(), calibration=calibration[0]),
        "none": base,
        "random": remap(base, "random", batch).model,
        "assignment": assignment,
        "none + gain": correct_outputs(base, calibration[0]),
        "assignment + batch_norm": refit_batch_norm(assignment, calibration[0]),
    }
    rows = {row_label(row.method, row.control): row for row in study.by_network["net-1"]}
    for label, model in by_hand.items():
        count = rows[label].images
        with torch.no_grad():
            accuracy = (model(pixels[:count]).argmax(-1) == labels[:count]).double().mean().item()
        assert rows[label].accuracy == pytest.approx(accuracy, abs=1e-9), label


def test_there_is_a_drop_to_speak_of(study: RemapStudy) -> None:
    assert study.row("none").drop > 0.01


def test_layers_are_checked_by_the_circuit(study: RemapStudy) -> None:
    assert [(c.layer, c.method) for c in study.circuit] == [(n, m) for n in ("0", "4") for m in METHODS]
    for check in study.circuit:
        assert check.positions == 4
        assert check.surrogate == pytest.approx(check.circuit, rel=0.1)
        assert check.surrogate_weighted == pytest.approx(check.circuit_weighted, rel=0.1)


def test_the_study_is_json(study: RemapStudy) -> None:
    told = json.loads(json.dumps(study.to_dict()))
    assert told["configuration"]["networks"] == ["net-0", "net-1"]
    assert told["configuration"]["methods"]["assignment"]["method"] == "assignment"


def test_a_study_goes_on_from_what_is_kept(
    study: RemapStudy, networks: dict[str, nn.Module], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **options: object) -> None:
        raise AssertionError("everything is kept")

    for name in ("remap", "fine_tune", "correct_outputs", "check_layers"):
        monkeypatch.setattr(remapping, name, never)
    again = study_remapping(networks, images(True), images(False), setting(), work=folder)
    assert again.rows == study.rows
    assert again.circuit == study.circuit


def test_networks_may_be_studied_side_by_side(
    study: RemapStudy, networks: dict[str, nn.Module], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = study_remapping({"net-1": networks["net-1"]}, images(True), images(False), setting(), work=folder)
    assert one.rows == study.by_network["net-1"]


def test_a_killed_study_ends_with_the_same_table(
    study: RemapStudy, networks: dict[str, nn.Module], folder: Path, tmp_path: Path
) -> None:
    kept = sorted(folder.iterdir())
    for path in kept[::2]:  # as if the others had not come yet; one is torn
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / kept[0].name).write_bytes(kept[0].read_bytes()[:50])
    again = study_remapping(networks, images(True), images(False), setting(), work=tmp_path)
    assert again.rows == study.rows


@pytest.mark.parametrize(
    "change",
    [
        {"calibration_images": 47},
        {"steps": 3},
        {"seed": 1},
        {"architecture": ARCH.replace(adc_bits=8)},
        {"preset": Preset(Crossbar(64, 64, r_wire=9.0), SMALL.window, 0.25, "other")},
    ],
)
@pytest.mark.filterwarnings("ignore::geniex.errors.ConversionWarning")
def test_what_was_kept_for_another_setting_is_not_taken(
    networks: dict[str, nn.Module],
    folder: Path,
    study: RemapStudy,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    built: list[str] = []

    def noted(self: Any, method: str, control: str | None) -> nn.Module:
        built.append(row_label(method, control))
        raise RuntimeError("built anew")

    monkeypatch.setattr(remapping._OneNetwork, "_built", noted)
    methods = {name: REMAPPINGS[name] for name in ("none", "srs")} if "calibration_images" in change else None
    changed = setting(**(change if methods is None else change | {"methods": methods, "combined": ()}))
    with pytest.raises(RuntimeError, match="built anew"):
        study_remapping(networks, images(True), images(False), changed, work=folder)
    assert built == [{"steps": "none + fine_tuning"}.get(next(iter(change)), "none")]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: setting(methods={"srs": REMAPPINGS["srs"]}), r"methods: got \['srs'\]; 'none' must be there"),
        (lambda: setting(controls=("gains",)), "controls: got 'gains'; it must be one of gain, batch_norm"),
        (lambda: setting(combined=("l1",)), "combined: got 'l1'; it must be one of none, random"),
        (lambda: setting(fine_tuned=("mdm",)), "fine_tuned: got 'mdm'"),
        (lambda: setting(images=0), "images: got 0"),
        (lambda: setting(combined_images=-1), "combined_images: got -1"),
        (lambda: setting(calibration_images=257), "calibration_images: got 257"),
        (lambda: setting(steps=0), "steps: got 0"),
        (lambda: setting(circuit_positions=-1), "circuit_positions: got -1"),
        (lambda: setting(seed=-1), "seed: got -1"),
        (lambda: study_remapping({}, images(True), images(False), setting()), "networks: got none"),
    ],
)
def test_what_cannot_be_studied_is_told(make: Callable[[], object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        make()


def test_batch_norms_are_missed_before_any_work(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match="controls: got 'batch_norm'; bare has no batch norm to refit"):
        study_remapping({"bare": network}, images(True), images(False), setting(), work=tmp_path)
    assert not any(tmp_path.iterdir())


def test_rows_that_are_not_there_are_told(study: RemapStudy) -> None:
    with pytest.raises(InputError, match=r"method: got \('mdm', None\); rows are \[\('float', None\)"):
        study.row("mdm")
