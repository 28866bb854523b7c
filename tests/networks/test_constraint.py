"""Training under masks and limits: what is 0 stays 0, what is limited stays within, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.errors import InputError
from geniex.networks import NETWORKS, Constraint, ImageSet
from geniex.networks.optimise import trainer_hardware
from geniex.networks.train import FitConfig, retrain_network

CONFIG = FitConfig(epochs=2, batch=16, learning_rate=0.01, seed=2)


def images(count: int = 48) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return ImageSet(pixels, torch.arange(count) % 10)


def network(name: str = "fashion-vgg") -> Any:
    torch.manual_seed(0)
    return NETWORKS[name].stored().eval()


def constraint(net: nn.Module) -> Constraint:
    """Half of two layers' weights at 0, and a limit on one of them and on another one."""
    drawn = torch.Generator().manual_seed(3)
    names = ("features.3.weight", "classifier.weight")
    masks = {name: torch.rand(net.get_parameter(name).shape, generator=drawn) < 0.5 for name in names}
    return Constraint(masks=masks, limits={"classifier.weight": 0.01, "features.0.weight": 0.2})


def test_weights_are_put_where_they_must_be() -> None:
    net = network()
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    held = constraint(net)
    held.enforce(net)
    for name, value in net.named_parameters():
        wanted = before[name].clamp(-held.limits[name], held.limits[name]) if name in held.limits else before[name]
        assert torch.equal(value, wanted * held.masks[name] if name in held.masks else wanted), name
    assert before["features.0.weight"].abs().max() > 0.2


def test_what_is_masked_is_zero_even_if_it_was_infinite() -> None:
    net = nn.Linear(2, 1)
    net.weight.data = torch.tensor([[float("inf"), 1.0]])
    Constraint(masks={"weight": torch.tensor([[False, True]])}).enforce(net)
    assert net.weight.tolist() == [[0.0, 1.0]]


def test_constraints_hold_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = network(), []
    held = constraint(net)

    def watched(module: Any, args: Any) -> None:
        """Before each forward pass but the first: a step has been made, and nothing of it is undone since."""
        if module.training:
            values = {name: value.detach().abs() for name, value in module.named_parameters()}
            masked = [float(values[name][~mask].max()) for name, mask in held.masks.items()]
            over = [float(values[name].max()) - limit for name, limit in held.limits.items()]
            seen.append((max(masked), max(over)))

    net.register_forward_pre_hook(watched)
    tuned = retrain_network(net, images(), CONFIG, constraint=held)
    assert len(seen) == 6
    # float32 rounds a limit.
    assert all(masked == 0 and over < 1e-8 for masked, over in seen)
    assert all(not tuned.get_parameter(name)[~mask].any() for name, mask in held.masks.items())
    assert all(tuned.get_parameter(name).abs().max() <= limit + 1e-8 for name, limit in held.limits.items())
    moved = (
        tuned.get_parameter("features.3.weight")
        - net.get_parameter("features.3.weight") * held.masks["features.3.weight"]
    )
    assert moved.abs().max() > 1e-3
    # The limits are felt: without the last clip, weights would lie at many values beyond.
    assert (tuned.get_parameter("classifier.weight").abs() >= 0.0099).float().mean() > 0.1


def test_without_a_constraint_nothing_is_held() -> None:
    net = network()
    held = constraint(net)
    tuned = retrain_network(net, images(), CONFIG)
    assert all(tuned.get_parameter(name)[~mask].any() for name, mask in held.masks.items())


def test_training_on_starts_from_the_network_and_leaves_it_alone() -> None:
    net = network("fashion-resnet20")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    config = FitConfig(epochs=1, batch=16, learning_rate=1e-7, weight_decay=0.0, seed=2)
    tuned = retrain_network(net, images(16), config)
    assert not net.training
    assert not tuned.training
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    for (name, new), old in zip(tuned.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-6, msg=name)
    # Batch norms were in training mode: their statistics are the images'.
    assert not torch.equal(tuned.stem[1].running_mean, net.stem[1].running_mean)


def test_the_same_seed_gives_the_same_weights() -> None:
    net, state = network(), torch.get_rng_state()
    first, again = (retrain_network(net, images(), CONFIG).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_smaller_networks_and_folded_ones_are_trained_on() -> None:
    net = network("fashion-cnn")
    tuned = retrain_network(net, images(), CONFIG)
    assert tuned.state_dict().keys() == net.state_dict().keys()
    assert not torch.equal(tuned.conv1.weight, net.conv1.weight)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("masks['weight']", {"masks": {"weight": torch.ones(1, 2)}}),
        ("masks['weight']", {"masks": {"weight": torch.ones(2, 2, dtype=torch.bool)}}),
        ("constraint", {"masks": {"gain": torch.ones(1, 2, dtype=torch.bool)}}),
        ("constraint", {"limits": {"gain": 1.0}}),
        ("limits['weight']", {"limits": {"weight": -1.0}}),
        ("limits['weight']", {"limits": {"weight": float("nan")}}),
    ],
)
def test_wrong_constraints_are_told(name: str, given: dict) -> None:
    with pytest.raises(InputError) as told:
        Constraint(**given).check(nn.Linear(2, 1))
    assert told.value.name == name


def test_wrong_images_are_told() -> None:
    with pytest.raises(InputError, match=r"VGG takes images of shape \(1, 28, 28\)"):
        retrain_network(network(), ImageSet(torch.zeros(300, 3, 32, 32), torch.zeros(300)), CONFIG)
    with pytest.raises(InputError, match="constraint"):
        retrain_network(network(), images(), CONFIG, constraint=Constraint(limits={"gain": 1.0}))


def test_devices_are_what_lightning_calls_them() -> None:
    one = {"devices": 1}
    assert trainer_hardware(None) == {"accelerator": "auto"} | one
    assert trainer_hardware("cpu") == {"accelerator": "cpu"} | one
    assert trainer_hardware(torch.device("cuda")) == {"accelerator": "cuda"} | one
    assert trainer_hardware("cuda:1") == {"accelerator": "cuda", "devices": [1]}


def test_constraints_are_enforced_where_the_network_is() -> None:
    """No GPU is here: fake tensors tell what would meet on two devices."""
    with FakeTensorMode():
        with torch.device("cuda"):
            net: Any = NETWORKS["fashion-vgg"].stored()
        here = Constraint(masks={"classifier.weight": torch.ones(10, 1152) > 0}, limits={"features.0.weight": 0.1})
        there = here.to("cuda")
        assert there.masks["classifier.weight"].device.type == "cuda"
        assert net(torch.zeros(2, 1, 28, 28, device="cuda")).device.type == "cuda"
        for held in (there, here):  # masks that were left behind are taken along
            held.enforce(net)
