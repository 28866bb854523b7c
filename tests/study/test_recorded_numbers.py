"""Studies of remapping and fine-tuning give the numbers that engines of their own gave for the same small networks.

``recorded/numbers.json`` holds what these engines found before the grid took their place. Its networks are shipped
beside it, so that no training stands between the two.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from grid_cases import write_images

from geniex.study.grid import Study, run_study
from geniex.study.grid.table import Row

HERE = Path(__file__).parent / "recorded"
OLD = json.loads((HERE / "numbers.json").read_text())
BASE: dict[str, Any] = {
    "images": 40,
    "preset": "geniex-16",
    "crossbar": {"r_wire": 10.0},
    "window": {"r_on": 20e3},
    "emulator": "physics-fast",
    "energy": "ideal",
    "architecture": {"weight_bits": 6, "input_bits": 5},
}
EXACT = {"rel": 1e-6, "abs": 1e-9}
"""The numbers are the same to the last digit on one machine; other processors add in another order."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def remapped(root: Path) -> Study:
    given = BASE | {
        "network": [str(HERE / f"cnn-{k}") for k in range(2)],
        "calibration_images": 48,
        "remapping_images": 24,
        "fine_tuning": {"steps": 1},
        "differences": ["mitigation"],
        "parts": [
            {"name": "remappings", "circuit_positions": 1, "grid": {"mitigation": ["none", "srs", "assignment"]}},
            {"name": "controls", "images": 24, "grid": {"mitigation": ["gain", "assignment + gain", "fine_tuning"]}},
            {"name": "ideal", "emulator": "ideal"},
        ],
    }
    return run_study(given, data_root=root)


def known(value: float | None) -> float:
    return math.nan if value is None else value


def figures(row: Row, *names: str) -> Any:
    return pytest.approx([known(row[name]) for name in names], **EXACT, nan_ok=True)


def label(old: Row) -> str:
    """The mitigation that a method and a control make."""
    return " + ".join(name for name in (old["method"], old["control"]) if name is not None).removeprefix("none + ")


def test_shares_and_intervals_over_networks_and_images(remapped: Study) -> None:
    found = {row["mitigation"]: row for row in remapped.summary if row["part"] != "ideal"}
    floating, ideal, *others = OLD["rows"]
    accuracy = ("accuracy", "accuracy_low", "accuracy_high")
    names = ("float_accuracy", "float_accuracy_low", "float_accuracy_high")
    assert [floating[name] for name in accuracy] == figures(found["none"], *names)
    assert [ideal[name] for name in accuracy] == figures(remapped.point(part="ideal"), "accuracy", "low", "high")
    for old in others:
        row = found[label(old)]
        shares = ("drop", "recovered", "recovered_low", "recovered_high")
        assert old["images"] == row["images"]
        assert [known(old[name]) for name in (*accuracy, *shares)] == figures(row, "accuracy", "low", "high", *shares)
        ends = ("recovered_images_low", "recovered_images_high")
        assert [known(old["images_low"]), known(old["images_high"])] == figures(row, *ends)


def test_shares_of_each_network(remapped: Study) -> None:
    found = {(Path(row["training"]).name, row["mitigation"]): row for row in remapped.rows if row["part"] != "ideal"}
    for network, rows in OLD["by_network"].items():
        for old in rows[2:]:
            told = [known(old[name]) for name in ("accuracy", "recovered", "images_low", "images_high")]
            row = found[network, label(old)]
            assert told == figures(row, "accuracy", "recovered", "recovered_low", "recovered_high")


def test_differences_of_every_two_remappings(remapped: Study) -> None:
    found = {(row["mitigation"], row["above"]): row for row in remapped.differences if row["part"] == "remappings"}
    assert len(found) == len(OLD["differences"])
    for old in OLD["differences"]:
        told = [old[name] for name in ("mean", "low", "high", "networks_low", "networks_high")]
        row = found[old["method"], old["other"]]
        assert told == figures(row, "difference", "low", "high", "networks_low", "networks_high")


def test_errors_of_layers_by_emulator_and_circuit(remapped: Study) -> None:
    found = {(row["layer"], row["mitigation"]): row for row in remapped.layers}
    assert len(found) == len(OLD["circuit"])
    for old in OLD["circuit"]:
        told = [old[name] for name in ("surrogate", "circuit", "surrogate_weighted", "circuit_weighted")]
        row = found[old["layer"], old["method"]]
        # The exact circuit is solved to a tolerance of 1e-6.
        assert told == pytest.approx(
            [row[name] for name in ("emulator", "circuit", "emulator_weighted", "circuit_weighted")], rel=1e-5
        )


def test_fine_tuning_by_both_gradients_with_its_check(root: Path) -> None:
    given = BASE | {
        "network": str(HERE / "cnn-0"),
        "calibration_images": 24,
        "calibration_start": 40,
        "check": {"emulator": "physics", "images": 10},
        "fine_tuning": {"steps": 2, "batch": 16, "learning_rates": [3e-4, 3e-3], "left_out": 40},
        "parts": [
            {"name": "before"},
            {"name": "after", "mitigation": "fine_tuning", "grid": {"fine_tuning.gradients": ["ideal", "emulator"]}},
        ],
    }
    study = run_study(given, data_root=root)
    floating, *states = OLD["states"]
    assert study.summary[0]["float_accuracy"] == floating["accuracy"]
    for old, row in zip(states, study.summary, strict=True):
        shares = ("recovered", "recovered_low", "recovered_high")
        names = ("accuracy", "low", "high", "check_accuracy", "check_agreement")
        assert [known(old[name]) for name in names] == figures(row, *names)
        assert [known(old[name]) for name in shares] == figures(row, *(f"float_{name}" for name in shares))
    for old, row in zip(OLD["runs"], study.learning_rates, strict=True):
        told = [old[name] for name in ("learning_rate", "training_loss", "validation_loss", "validation_accuracy")]
        names = ("learning_rate", "training_loss", "left_out_loss", "left_out_accuracy")
        # Losses after training add up the differences of processors.
        assert told == pytest.approx([row[name] for name in names], rel=1e-3)
        assert old["chosen"] == row["chosen"]
