"""The study of fine-tuning: what it reports is what it did, and its command says what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from geniex.circuit import Crossbar
from geniex.cli.finetune import finetune
from geniex.cli.main import main
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.networks import ImageSet, load_images
from geniex.networks.train import accuracy
from geniex.preset import Preset
from geniex.study.finetuning import METHODS, FineTuningStudy, study_fine_tuning

# Every test runs a study.
pytestmark = pytest.mark.slow

SMALL = Preset(
    Crossbar(32, 32, r_source=1e3, r_sink=1e3, r_wire=10.0), ConductanceWindow(20e3, 10.0), 0.5, "a small harsh one"
)


def images(train: bool) -> ImageSet:
    return load_images("digits", train=train)


@pytest.fixture(scope="module")
def study() -> FineTuningStudy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        train = images(train=True)
        pixels, labels = train.batch(torch.arange(len(train)))
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(pixels), labels).backward()
            optimizer.step()
    return study_fine_tuning(
        network.eval(),
        images(train=True),
        images(train=False),
        preset=SMALL,
        architecture=SMALL.architecture(weight_bits=8, input_bits=8),
        steps=4,
        batch=32,
        learning_rates=(1e-9, 3e-3),
        check_images=30,
    )


def test_a_state_for_each_method_and_a_run_for_each_rate(study: FineTuningStudy) -> None:
    assert [s.name for s in study.states] == ["float", "before", *METHODS]
    assert [(r.method, r.learning_rate) for r in study.runs] == [(m, rate) for m in METHODS for rate in (1e-9, 3e-3)]
    for method in METHODS:
        runs = [r for r in study.runs if r.method == method]
        assert [r.chosen for r in runs] == [r.validation_loss == min(q.validation_loss for q in runs) for r in runs]


def test_what_is_recovered_is_a_share_of_what_was_lost(study: FineTuningStudy) -> None:
    whole, before, *after = study.states
    assert whole.recovered is None
    assert before.recovered is None
    assert whole.accuracy - before.accuracy > 0.02
    for state in after:
        share = (state.accuracy - before.accuracy) / (whole.accuracy - before.accuracy)
        assert state.recovered == pytest.approx(share)
        assert state.recovered_low <= share <= state.recovered_high
        assert state.low < state.accuracy < state.high


def test_the_check_has_the_same_weights_and_scales(study: FineTuningStudy) -> None:
    """A far better surrogate of the same circuit sees nearly the same network."""
    for state in study.states[1:]:
        assert state.check_agreement >= 0.9
    assert study.states[0].check_accuracy is None


def test_a_report_is_json_and_the_models_are_those_it_is_about(study: FineTuningStudy) -> None:
    told = json.loads(json.dumps(study.to_dict()))
    assert told["states"][1]["name"] == "before"
    assert set(told) == {"states", "runs", "configuration"}
    for state in study.states[2:]:
        assert accuracy(study.models[state.name], images(train=False)) == state.accuracy


def test_rates_and_images_must_be_there() -> None:
    shared = {"preset": SMALL, "architecture": SMALL.architecture()}
    with pytest.raises(InputError, match="learning_rates"):
        study_fine_tuning(nn.Identity(), images(True), images(False), learning_rates=(), **shared)
    with pytest.raises(InputError, match="check_images"):
        study_fine_tuning(nn.Identity(), images(True), images(False), check_images=10_000, **shared)


@pytest.mark.parametrize(
    ("option", "value"), [("preset", "nowhere"), ("network", "nothing"), ("data", "digits"), ("seed", "-1")]
)
def test_the_command_refuses_in_one_line(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", f"--{option}", value]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert option in said


def test_the_command_makes_no_figure_before_it_knows_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder"):
        finetune(json=tmp_path)
