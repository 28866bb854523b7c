"""VGG networks, with torchvision's VGG16 as the oracle."""

import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from geniex.networks import NETWORKS, VGG


@pytest.fixture(scope="module")
def theirs() -> nn.Sequential:
    """The features of torchvision's VGG16, without the 120 million weights that classify ImageNet."""
    with torch.device("meta"):
        features = torchvision.models.vgg16_bn().features
    return features.to_empty(device="cpu").eval()


def _described(layer: nn.Module) -> tuple[object, ...]:
    if isinstance(layer, nn.Conv2d):
        return "conv", tuple(layer.weight.shape), layer.stride, layer.padding, layer.groups
    if isinstance(layer, nn.BatchNorm2d):
        return "norm", layer.num_features, layer.eps, layer.momentum
    if isinstance(layer, nn.MaxPool2d):
        # nn.MaxPool2d's stride is its kernel's size where it is not given.
        return "pool", layer.kernel_size, layer.stride, layer.padding
    return (type(layer).__name__,)


@pytest.mark.parametrize("name", ["cifar10-vgg16", "cifar100-vgg16"])
def test_vgg16_has_the_layers_of_torchvisions(name: str, theirs: nn.Sequential) -> None:
    features = NETWORKS[name].make().features
    assert [_described(layer) for layer in features] == [_described(layer) for layer in theirs]


def test_vgg16_computes_what_torchvisions_does(theirs: nn.Sequential, randomised) -> None:
    network, images = randomised("cifar10-vgg16"), torch.rand(2, 3, 32, 32)
    missing = theirs.load_state_dict(network.features.state_dict(), strict=False).missing_keys
    convs = [name for name, layer in theirs.named_children() if isinstance(layer, nn.Conv2d)]
    # Torchvision's convolutions have a bias, which the batch norm after them takes away again.
    assert missing == [f"{name}.bias" for name in convs]
    with torch.no_grad():
        for name in missing:
            theirs.get_parameter(name).zero_()
        expected = theirs(images).flatten(1) @ network.classifier.weight.T + network.classifier.bias
        torch.testing.assert_close(network(images), expected)


def test_vgg16_has_thirteen_convolutions_of_14_7_million_weights() -> None:
    network = NETWORKS["cifar10-vgg16"].make()
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 13
    # Published with 4,224 biases, one a channel, as 14,714,688.
    assert sum(p.numel() for conv in convs for p in conv.parameters()) == 14_714_688 - 4_224
    assert network.classifier.weight.shape == (10, 512)


def _maps(network: VGG) -> list[tuple[int, ...]]:
    """(channels, height, width) that each convolution gives for an image."""
    shapes: list[tuple[int, ...]] = []

    def record(_: nn.Module, inputs: object, output: Tensor) -> None:
        shapes.append(tuple(output.shape[1:]))

    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(record)
    assert network.eval()(torch.rand(1, *network.input_shape)).shape == (1, network.classes)
    return shapes


def test_the_fashion_network_reads_small_maps() -> None:
    network = NETWORKS["fashion-vgg"].make()
    assert _maps(network) == [(32, 14, 14), (64, 14, 14), (64, 7, 7), (128, 7, 7), (128, 3, 3)]


def test_strides_and_pools_of_odd_maps_fit_the_classifier() -> None:
    # A stride rounds up, as its convolution is padded; a pool rounds down.
    network = VGG((2, 11, 9), 3, ((4, 2), "pool", 5))
    assert _maps(network) == [(4, 6, 5), (5, 3, 2)]
    assert network.classifier.in_features == 5 * 3 * 2
