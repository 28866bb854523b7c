"""Fine-tuning on crossbars: it brings back what they cost, keeps to the scales, and says what it cannot do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from geniex.circuit import Crossbar
from geniex.emulator import IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.mitigation import fine_tune
from geniex.networks import load_images
from geniex.simulator import convert, find_crossbar_layers, find_crossbar_matrices, to_digital

ARCH = Architecture(
    tile=(32, 32), window=ConductanceWindow(20e3, 10.0), weight_bits=8, input_bits=8, slice_bits=4, stream_bits=4
)
HARSH = Crossbar(32, 32, r_wire=80.0)


class Digits:
    """scikit-learn's 8 x 8 digits: batches to learn, in an order of their own, and those to test."""

    def __init__(self) -> None:
        train, test = (load_images("digits", train=train) for train in (True, False))
        self.images, self.labels = train.batch(torch.arange(len(train)))
        self.tests, self.answers = test.batch(torch.arange(len(test)))

    def __iter__(self) -> Any:
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(0))
        for at in order.split(64):
            yield self.images[at], self.labels[at]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def network(digits: Digits) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(150):
            loss = functional.cross_entropy(model(digits.images), digits.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    return float((model(digits.tests).argmax(-1) == digits.answers).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("gradients", ["emulator", "ideal"])
def test_recovers_at_least_half_of_what_wires_cost(network: nn.Module, digits: Digits, gradients: Any) -> None:
    converted = convert(network, ARCH, LinearEmulator(HARSH), calibration=digits.images, trainable=True)
    whole, before = accuracy(network, digits), accuracy(converted, digits)
    assert whole - before >= 0.05, "the wires must cost something"
    told: list[tuple[int, int, float]] = []
    losses = fine_tune(
        converted,
        digits,
        steps=40,
        learning_rate=3e-3,
        gradients=gradients,
        progress=lambda *args: told.append(args),
    )
    assert accuracy(converted, digits) - before >= (whole - before) / 2
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert told == [(k + 1, 40, loss) for k, loss in enumerate(losses)]
    assert {m.gradients for m in find_crossbar_matrices(converted).values()} == {"emulator"}


def test_gradients_reach_every_weight_and_bias_through_a_surrogate(network: nn.Module, digits: Digits) -> None:
    emulator = SurrogateEmulator("physics-fast", HARSH.replace(r_wire=10.0))
    converted = convert(network, ARCH, emulator, calibration=digits.images, trainable=True, checkpoint=True)
    before = copy.deepcopy(dict(converted.named_parameters()))
    fine_tune(converted, digits, steps=1, learning_rate=1e-3)
    moved = {name: p - before[name] for name, p in converted.named_parameters()}
    assert set(moved) == {f"{k}.{part}" for k in "13" for part in ("bias", "matrices.0.weight")}
    for name, change in moved.items():
        # Adam's first step is the learning rate in every parameter that has a gradient.
        assert (change.abs() > 0.9e-3).double().mean() > 0.6, name
        assert change.abs().max() < 1.1e-3


def test_weights_stay_in_the_scale_that_they_were_given(network: nn.Module, digits: Digits) -> None:
    converted = convert(network, ARCH, LinearEmulator(HARSH), calibration=digits.images, trainable=True)
    scales = [m.weight_frac_bits for m in find_crossbar_matrices(converted).values()]
    fine_tune(converted, digits, steps=20, learning_rate=0.3)
    for matrix, bits in zip(find_crossbar_matrices(converted).values(), scales, strict=True):
        assert matrix.weight_frac_bits == bits
        assert matrix.weight.abs().max() == 127 * 2.0**-bits, "such steps reach the end"


def test_the_digital_model_is_what_the_crossbars_learnt(network: nn.Module, digits: Digits) -> None:
    converted = convert(network, ARCH, IdealEmulator(), calibration=digits.images, trainable=True)
    fine_tune(converted, digits, steps=5, learning_rate=3e-3)
    back = to_digital(converted)
    assert not torch.equal(back[1].weight, network[1].weight)
    assert torch.equal(back[1].weight, find_crossbar_layers(converted)["1"].matrix.weight)
    # Half a last bit in each of 64 inputs and weights.
    assert (back(digits.tests) - converted(digits.tests)).abs().max() < 0.05 * back(digits.tests).abs().max()


def test_the_same_batches_give_the_same_weights(network: nn.Module, digits: Digits) -> None:
    converted = convert(network, ARCH, LinearEmulator(HARSH), calibration=digits.images, trainable=True)
    twice = [copy.deepcopy(converted) for _ in range(2)]
    losses = [fine_tune(model, list(digits)[:2], steps=5) for model in twice]
    assert losses[0] == losses[1]
    one, other = (model.state_dict() for model in twice)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_frozen_parameters_stay(network: nn.Module, digits: Digits) -> None:
    converted = convert(network, ARCH, LinearEmulator(HARSH), calibration=digits.images, trainable=True)
    first = converted[1].requires_grad_(False).matrix.weight.clone()
    last = converted[3].matrix.weight.clone()
    fine_tune(converted, digits, steps=2)
    assert torch.equal(converted[1].matrix.weight, first)
    assert not torch.equal(converted[3].matrix.weight, last)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"gradients": "none"}, "gradients"),
        ({"loader": []}, "loader"),
    ],
)
def test_says_what_it_cannot_do(network: nn.Module, digits: Digits, options: dict[str, Any], what: str) -> None:
    converted = convert(network, ARCH, LinearEmulator(HARSH), calibration=digits.images, trainable=True)
    with pytest.raises(InputError, match=what):
        fine_tune(converted, options.pop("loader", digits), **options)


def test_weights_on_crossbars_alone_cannot_be_tuned(network: nn.Module, digits: Digits) -> None:
    converted = convert(network, ARCH, LinearEmulator(HARSH), calibration=digits.images)
    with pytest.raises(InputError, match="trainable=True"):
        fine_tune(converted, digits)


def test_outputs_and_labels_of_any_kind(network: nn.Module, digits: Digits) -> None:
    """A loss of one's own: regression onto the network's own outputs, which needs no labels."""
    converted = convert(network, ARCH, LinearEmulator(HARSH), calibration=digits.images, trainable=True)
    with torch.no_grad():
        pairs: list[tuple[Tensor, Tensor]] = [(digits.images, network(digits.images))]
    losses = fine_tune(converted, pairs, steps=15, learning_rate=1e-2, loss=functional.mse_loss)
    assert losses[-1] < 0.7 * losses[0]


def test_mappings_and_loaders_are_trained_on_as_pairs_are() -> None:
    torch.manual_seed(0)
    x, labels = torch.rand(8, 9), torch.arange(8) % 3
    model = nn.Linear(9, 3)
    losses = []
    for data in (x, labels), [x, labels], [(x, labels)], {"input": x, "labels": labels}, [({"input": x}, labels)]:
        converted = convert(model, ARCH, IdealEmulator(), calibration=x, trainable=True)
        losses.append(fine_tune(converted, data, steps=3))
    assert losses == losses[:1] * len(losses)
    for wrong in x, [(x,)], {"input": x}, lambda model: model(x):
        with pytest.raises(InputError, match=r"loader: got .*labels"):
            fine_tune(converted, wrong, steps=3)  # type: ignore[arg-type]
