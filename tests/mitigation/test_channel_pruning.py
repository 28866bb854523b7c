"""Channels are removed whole, with all that they feed: beside networks whose channels are silent."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mitigation_cases import Odd, batch, mask_of, network
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mitigation import prune
from geniex.networks import NETWORKS


def silenced(plain: nn.Module, dead: dict[str, list[int]], norms: dict[str, str]) -> nn.Module:
    """The network with the outputs of layers at 0 after their batch norms: what removed channels amount to."""
    other: Any = copy.deepcopy(plain)
    for name, channels in dead.items():
        layer = other.get_submodule(norms.get(name, name))
        gain = layer.weight
        with torch.no_grad():
            gain[channels] = 0.0
            if layer.bias is not None:
                layer.bias[channels] = 0.0
    return other


def lost(layer: Any, left: Any) -> list[int]:
    """Channels that are gone, told by their biases, which are all different."""
    return [k for k, bias in enumerate(layer.bias) if bias not in left.bias]


def test_channels_are_removed_by_hand() -> None:
    """Hidden channel 1 is weakest by its filter and by what it feeds; 0 comes next."""
    plain = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    plain[0].weight.data = torch.tensor([[2.0, 2.0], [1.0, 1.0], [3.0, 3.0]])
    plain[2].weight.data = torch.tensor([[2.0, 1.0, 3.0], [2.0, 1.0, 3.0]])
    pruned: Any = prune(plain, "cf", 1 / 3)
    assert pruned.model[0].weight.tolist() == [[2.0, 2.0], [3.0, 3.0]]
    assert pruned.model[0].bias.tolist() == plain[0].bias[[0, 2]].tolist()
    assert pruned.model[2].weight.tolist() == [[2.0, 3.0], [2.0, 3.0]]
    assert (pruned.model[0].out_features, pruned.model[2].in_features) == (2, 2)
    assert pruned.masks == {}
    assert [(layer.before, layer.after) for layer in pruned.layers] == [
        ((1, 2, 3), (1, 2, 2)),
        ((1, 3, 2), (1, 2, 2)),
    ]
    assert pruned.sparsity == pytest.approx(1 / 3)


@torch.no_grad()
def test_a_smaller_vgg_is_the_large_one_with_channels_at_zero() -> None:
    plain, images = network("vgg").double(), batch("vgg").images.double()
    pruned: Any = prune(plain, "cf", 0.6)
    assert 0.5 < pruned.sparsity < 0.7
    norms = {"0": "1", "4": "5", "8": "9"}
    dead = {name: lost(plain.get_submodule(norm), pruned.model.get_submodule(norm)) for name, norm in norms.items()}
    assert all(dead.values())
    assert [len(d) for d in dead.values()] == [
        plain.get_submodule(n).num_features - pruned.model.get_submodule(n).num_features for n in norms.values()
    ]
    torch.testing.assert_close(pruned.model(images), silenced(plain, dead, norms)(images), rtol=1e-12, atol=1e-12)
    assert pruned.model[8].in_features == 4 * pruned.model[4].out_channels


@torch.no_grad()
@pytest.mark.parametrize("sparsity", [0.3, 0.8])
def test_shortcuts_lose_the_same_channels(sparsity: float) -> None:
    plain, images = network("resnet").double(), batch("resnet").images.double()
    pruned: Any = prune(plain, "cf", sparsity).model
    stage = {pruned.stem.out_channels, pruned.first.conv2.out_channels, pruned.second.conv1.in_channels}
    assert len(stage) == 1
    last = {pruned.second.conv2.out_channels, pruned.second.shortcut.out_channels, pruned.head.in_features}
    assert len(last) == 1
    # The channels of the sum are those of both summands: found by values that tell them apart.
    kept = [k for k, b in enumerate(plain.second.norm2.bias) if b in pruned.second.norm2.bias]
    assert torch.equal(plain.second.shortcut.bias[kept], pruned.second.shortcut.bias)
    assert torch.equal(plain.head.weight[:, kept], pruned.head.weight)
    dead = [k for k in range(9) if k not in kept]
    silent: Any = silenced(plain, {"second.norm2": dead, "second.shortcut": dead}, {})
    first = lost(plain.stem, pruned.stem)
    silent = silenced(silent, {"stem": first, "first.norm2": first}, {})
    for block in ("first", "second"):
        norm, left = plain.get_submodule(f"{block}.norm1"), pruned.get_submodule(f"{block}.norm1")
        silent = silenced(silent, {f"{block}.norm1": lost(norm, left)}, {})
    torch.testing.assert_close(pruned(images), silent(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["fashion-cnn", "fashion-vgg", "fashion-resnet20"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_networks_of_the_zoo_come_near_the_target(name: str, scope: str) -> None:
    torch.manual_seed(0)
    plain = NETWORKS[name].stored().eval()
    pruned = prune(plain, "cf", 0.8, scope=scope)
    assert pruned.masks == {}
    assert pruned.sparsity == pytest.approx(0.8, abs=0.01)
    left = sum(m.weight.numel() for m in pruned.model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert left == sum(layer.nonzero for layer in pruned.layers)
    assert pruned.model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_depthwise_convolutions_follow_their_channels() -> None:
    plain = nn.Sequential(
        *(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten())
    )
    pruned: Any = prune(plain, "cf", 0.5)
    channels = pruned.model[0].out_channels
    assert channels < 8
    assert (pruned.model[2].groups, pruned.model[2].in_channels, pruned.model[2].out_channels) == (channels,) * 3
    kept = [k for k, b in enumerate(plain[0].bias) if b in pruned.model[0].bias]
    assert torch.equal(pruned.model[2].weight, plain[2].weight[kept])
    assert pruned.layers[1].after == (channels, 9, 1)
    assert pruned.model(torch.rand(2, 1, 4, 4)).shape == (2, 4 * 4)


@torch.no_grad()
def test_filters_are_masked_where_channels_are_mixed() -> None:
    """Two groups see the first layer's channels: none can go, but filters can be 0."""
    plain, images = network("grouped"), batch("grouped").images
    pruned: Any = prune(plain, "cf", 0.5)
    assert set(pruned.masks) == {"0.weight", "2.weight"}  # the depthwise one has filters of its own
    rows = mask_of(pruned).reshape(6, -1)
    assert all(row.all() or not row.any() for row in rows)
    assert 0 < rows.any(1).sum() < 6
    assert pruned.model[0].out_channels == pruned.model[4].in_channels == 6
    assert pruned.model[4].out_channels < 5
    assert pruned.model(images).shape == (12, 4)
    told = {layer.name: layer for layer in pruned.layers}
    assert told["0"].nonzero == int(rows.sum())
    assert told["2"].nonzero == 9 * int(mask_of(pruned, "2").reshape(6, -1).any(1).sum())


MIXED = {
    "concatenated": Odd(lambda x: torch.cat([x, x], 1), 12),
    "softmax": Odd(lambda x: x.softmax(-1)),
    "sorted": Odd(lambda x: x.sort(-1).values),
    "reshaped": Odd(lambda x: x.reshape(-1, 3).reshape(-1, 6)),
    "a vector added": Odd(lambda x: x + torch.ones(6)),
}


@pytest.mark.parametrize("case", MIXED)
def test_what_mixes_channels_keeps_them_all(case: str) -> None:
    pruned: Any = prune(MIXED[case], "cf", 0.4)
    assert pruned.model.first.out_features == 6
    assert set(pruned.masks) == {"first.weight"}
    assert pruned.model(torch.rand(2, 4)).shape == (2, 3)


def test_outputs_of_the_network_stay_whatever_comes_after() -> None:
    with pytest.raises(InputError, match="no layer has channels"):
        prune(nn.Sequential(nn.Linear(4, 6), nn.Softmax(-1)), "cf", 0.5)
    both: Any = prune(Odd(lambda x: 2 * x.relu()), "cf", 0.5)
    assert both.model.first.out_features < 6
    assert both.model.last.out_features == 3


def test_skipped_layers_keep_their_filters() -> None:
    pruned: Any = prune(network("vgg"), "cf", 0.5, skip=["4"])
    assert pruned.model[4].out_channels == 9
    assert pruned.model[0].out_channels == pruned.model[4].in_channels < 5
    assert pruned.model[8].out_features < 8


def test_a_channel_counts_by_what_it_feeds_too() -> None:
    """Filters of 1 and 2, but the weaker one feeds the next layer with 9 in place of 1: the stronger one goes."""
    plain = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    plain[0].weight.data = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    plain[2].weight.data = torch.tensor([[9.0, 1.0], [9.0, 1.0]])
    pruned: Any = prune(plain, "cf", 0.5)
    assert pruned.model[0].weight.tolist() == [[1.0, 1.0]]
    assert pruned.model[2].weight.tolist() == [[9.0], [9.0]]


class Wired(nn.Module):
    """Layers by name, and what is done with them."""

    def __init__(self, way: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.way = way
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """What the way gives."""
        return self.way(self, x)


def test_channels_of_the_images_stay() -> None:
    net = Wired(
        lambda m, x: m.last(m.middle(x + m.first(x)).relu()),
        first=nn.Linear(4, 4),
        middle=nn.Linear(4, 6),
        last=nn.Linear(6, 3),
    )
    pruned: Any = prune(net, "cf", 0.4)
    assert pruned.masks == {}
    assert torch.equal(pruned.model.first.weight, net.first.weight)
    assert pruned.model.middle.in_features == 4
    assert pruned.model.middle.out_features < 6


def test_layers_that_are_not_called_stay() -> None:
    net = Wired(
        lambda m, x: m.last(m.first(x).relu()), first=nn.Linear(4, 6), last=nn.Linear(6, 3), spare=nn.Linear(6, 9)
    )
    pruned: Any = prune(net, "cf", 0.4)
    assert torch.equal(pruned.model.spare.weight, net.spare.weight)
    assert pruned.model.first.out_features < 6


def test_layers_that_share_a_weight_keep_their_channels() -> None:
    net = Wired(
        lambda m, x: m.last(m.there(m.first(x).relu()).relu()),
        first=nn.Linear(4, 6),
        there=nn.Linear(6, 4),
        last=nn.Linear(4, 3),
    )
    net.again = nn.Linear(4, 6)
    net.again.weight = net.first.weight
    net.way = lambda m, x: m.last(m.there(m.first(x).relu()).relu()) + m.again(x).sum()
    pruned: Any = prune(net, "cf", 0.4)
    assert pruned.model.first.out_features == pruned.model.again.out_features == 6
    assert pruned.model.there.out_features < 4
    assert pruned.model(torch.rand(2, 4)).shape == (2, 3)


def test_a_linear_layer_along_maps_sees_no_channels() -> None:
    net = Wired(
        lambda m, x: m.last(m.along(m.first(x)).flatten(1)),
        first=nn.Conv2d(1, 6, 3),
        along=nn.Linear(6, 2),
        last=nn.Linear(72, 3),
    )
    pruned: Any = prune(net, "cf", 0.4)
    assert pruned.model.first.out_channels == pruned.model.along.in_features == 6
    assert pruned.model(torch.rand(2, 1, 8, 8)).shape == (2, 3)
