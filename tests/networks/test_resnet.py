"""Residual networks against compositions by hand and the published ones' size."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from geniex.networks import NETWORKS, ResNet
from geniex.networks.resnet import Block


def _normed(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, stride: int, padding: int) -> Tensor:
    maps = functional.conv2d(x, conv.weight, stride=stride, padding=padding)
    return functional.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def _block(inputs: int, outputs: int, stride: int) -> Block:
    """In double precision, its batch norms far from the identity."""
    torch.manual_seed(0)
    block = Block(inputs, outputs, stride).double().eval()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 2.0)
    return block


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2), (4, 8, 1), (4, 4, 2)])
def test_a_block_is_its_formula(inputs: int, outputs: int, stride: int) -> None:
    block, x = _block(inputs, outputs, stride), torch.rand(3, inputs, 7, 6, dtype=torch.float64)
    inner = _normed(x, block.conv1, block.norm1, stride, 1).relu()
    expected = _normed(inner, block.conv2, block.norm2, 1, 1)
    if (inputs, stride) == (outputs, 1):
        expected = (expected + x).relu()
    else:
        expected = (expected + _normed(x, *block.shortcut, stride, 0)).relu()
    assert expected.shape == (3, outputs, -(-7 // stride), -(-6 // stride))
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_a_block_without_its_inner_branch_is_the_identity() -> None:
    block, x = _block(4, 4, 1), torch.rand(2, 4, 5, 5, dtype=torch.float64)
    for tensor in (block.norm2.weight, block.norm2.bias, block.norm2.running_mean):
        nn.init.zeros_(tensor)
    assert torch.equal(block(x), x)


def _maps(network: ResNet) -> list[tuple[int, ...]]:
    """(channels, height, width) that the stem and each block give for an image."""
    network.eval()
    maps, shapes = torch.rand(1, *network.input_shape), []
    for part in (network.stem, *network.blocks):
        maps = part(maps)
        shapes.append(tuple(maps.shape[1:]))
    return shapes


def test_resnet20_is_that_of_he_et_al() -> None:
    network = NETWORKS["cifar10-resnet20"].make()
    assert _maps(network) == [(16, 32, 32)] * 4 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3
    layers = {k: m for k, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert len([k for k in layers if "shortcut" not in k]) == 20
    assert all(m.kernel_size == (3, 3) for k, m in layers.items() if "shortcut" not in k and k != "classifier")
    sizes = {k: p.numel() for k, p in network.named_parameters()}
    # Table 6 gives 0.27 M; there, the two shortcuts that change the shape pad with zeros and have no weights.
    assert round(sum(sizes.values()) / 1e6, 2) == 0.27
    convs = 9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    assert sum(n for k, n in sizes.items() if "shortcut" not in k) == convs + norms + 64 * 10 + 10 == 269_722
    assert sum(n for k, n in sizes.items() if "shortcut" in k) == 16 * 32 + 32 * 64 + 2 * (32 + 64)


def test_the_fashion_network_reads_small_maps() -> None:
    network = NETWORKS["fashion-resnet20"].make()
    assert _maps(network) == [(24, 7, 7)] * 4 + [(48, 4, 4)] * 3 + [(96, 2, 2)] * 3
    assert network.stem[0].weight.shape == (24, 1, 5, 5)


def test_knobs_set_width_and_depth() -> None:
    network = ResNet((2, 9, 8), 3, width=4, blocks=1)
    assert _maps(network) == [(4, 9, 8), (4, 9, 8), (8, 5, 4), (16, 3, 2)]


@pytest.mark.parametrize("name", ["cifar10-resnet20", "fashion-resnet20"])
def test_a_network_is_stem_blocks_mean_and_one_linear_layer(name: str, randomised) -> None:
    network = randomised(name).double()
    x = images = torch.rand(2, *network.input_shape, dtype=torch.float64)
    if name == "fashion-resnet20":
        x = functional.max_pool2d(_normed(x, network.stem[0], network.stem[1], stride=2, padding=2).relu(), 2)
    else:
        x = _normed(x, network.stem[0], network.stem[1], stride=1, padding=1).relu()
    for block in network.blocks:
        x = block(x)
    expected = functional.linear(x.flatten(2).mean(2), network.classifier.weight, network.classifier.bias)
    torch.testing.assert_close(network(images), expected, rtol=1e-12, atol=1e-12)
