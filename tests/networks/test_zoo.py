"""What all networks share: logits of their images, and layers that read nothing negative."""

import pytest
import torch
from torch import nn

from geniex.networks import NETWORKS

LAYERS = {
    "fashion-cnn": 4,
    "fashion-vgg": 6,
    "fashion-resnet20": 22,
    "cifar10-vgg16": 14,
    "cifar100-vgg16": 14,
    "cifar10-resnet20": 22,
    "cifar100-resnet20": 22,
}
"""Convolutions and linear layers; a ResNet-20 has two more in its shortcuts."""


def test_no_network_is_left_out() -> None:
    assert set(LAYERS) == set(NETWORKS)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_reads_values_of_one_sign(name: str, randomised) -> None:
    network, seen = NETWORKS[name].finish(randomised(name)), []
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = network(torch.rand(3, *network.input_shape))
    assert logits.shape == (3, network.classes)
    assert network.classes == (100 if "cifar100" in name else 10)
    assert len(layers) == len(seen) == LAYERS[name]
    assert all(x.min() >= 0 for x in seen)
    # A layer that reads nothing but zeros would pass for any sign.
    assert all(x.max() > 0 for x in seen)


@pytest.mark.parametrize("name", LAYERS)
def test_every_network_is_differentiable_and_uses_all_its_weights(name: str) -> None:
    network = NETWORKS[name].make()
    network(torch.rand(2, *network.input_shape)).square().sum().backward()
    unused = [key for key, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert unused == []
