"""Pruning takes whole pieces and nothing else: counted by hand, beside NumPy and networks with zeroed weights."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mitigation_cases import batch, network
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.mitigation import Pruned, prune
from geniex.networks import NETWORKS

WEAK, STRONG = 1.0, 4.0


def linear(weight: Any) -> nn.Module:
    """A network of one matrix (outputs, inputs)."""
    rows = torch.as_tensor(np.asarray(weight), dtype=torch.float32)
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    layer.weight.data = rows.clone()
    return nn.Sequential(layer)


def mask(pruned: Pruned, name: str = "0") -> np.ndarray:
    return pruned.masks[f"{name}.weight"].numpy()


def same_but_zeroed(pruned: Pruned, plain: nn.Module) -> bool:
    """Whether the network is the plain one with its masked weights at 0."""
    wanted = {k: v.clone() for k, v in plain.state_dict().items()}
    for name, kept in pruned.masks.items():
        wanted[name][~kept] = 0.0
    found = pruned.model.state_dict()
    return wanted.keys() == found.keys() and all(torch.equal(wanted[k], found[k]) for k in wanted)


# Tiles ------------------------------------------------------------------------------------------------------------


def test_columns_of_tiles_are_zeroed_by_hand() -> None:
    """Two rows of tiles of 2 inputs and one of 1: column segments of sizes 2, 2 and 1."""
    weight = [[3, 3, 1, 1, 9], [1, 1, 5, 5, 0.1], [2, 2, 4, -4, 9]]
    # By mean |w| 0.1, then 1 and 1, then 2: sizes 1, 2, 2, 2. Of 15 weights 0.4 is 6, as near to 5 as to 7.
    pruned = prune(linear(weight), "xcs", 0.4, tile=(2, 64))
    wanted = [[True, True, False, False, True], [False, False, True, True, False], [True] * 5]
    assert mask(pruned).tolist() == wanted
    assert pruned.sparsity == pytest.approx(5 / 15)
    assert same_but_zeroed(pruned, linear(weight))


def test_rows_of_tiles_are_zeroed_by_hand() -> None:
    """The same transposed: one input's weights to the outputs of one column of tiles."""
    weight = np.array([[3, 3, 1, 1, 9], [1, 1, 5, 5, 0.1], [2, 2, 4, -4, 9]]).T
    pruned = prune(linear(weight), "xrs", 0.4, tile=(64, 2))
    wanted = np.array([[True, True, False, False, True], [False, False, True, True, False], [True] * 5]).T
    assert np.array_equal(mask(pruned), wanted)


@pytest.mark.parametrize("criterion", ["l1", "l2"])
@pytest.mark.parametrize("method", ["xcs", "xrs"])
@pytest.mark.parametrize("tile", [(4, 3), (5, 7), (64, 64)])
def test_pieces_are_whole_and_the_weakest(method: str, criterion: str, tile: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).normal(size=(10, 13)).astype(np.float32)
    kept = mask(prune(linear(weight), method, 0.6, tile=tile, criterion=criterion))
    lines, step = (weight, tile[0]) if method == "xcs" else (weight.T, tile[1])
    alive, gone = [], []
    for line, row in zip(lines, kept if method == "xcs" else kept.T, strict=True):
        for start in range(0, len(line), step):
            piece = line[start : start + step].astype(np.float64)
            held = row[start : start + step]
            assert held.all() or not held.any()
            strength = np.abs(piece).mean() if criterion == "l1" else np.sqrt((piece**2).mean())
            (alive if held.all() else gone).append((strength, len(piece)))
    assert max(strength for strength, _ in gone) < min(strength for strength, _ in alive)
    removed = sum(size for _, size in gone)
    largest = max(size for _, size in alive + gone)
    assert abs(removed - 0.6 * weight.size) <= largest / 2


def test_l1_and_l2_differ_where_they_must() -> None:
    weight = [[2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 6.0]]  # means 2 and 1.5, root mean squares 2 and 3
    assert mask(prune(linear(weight), "xcs", 0.5, tile=(4, 4), criterion="l1")).any(1).tolist() == [True, False]
    assert mask(prune(linear(weight), "xcs", 0.5, tile=(4, 4), criterion="l2")).any(1).tolist() == [False, True]


@pytest.mark.parametrize("method", ["xcs", "xrs"])
def test_global_takes_the_weakest_of_the_network(method: str) -> None:
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    nn.init.constant_(plain[0].weight, WEAK)
    nn.init.constant_(plain[2].weight, STRONG)
    by_layer = prune(plain, method, 0.5, tile=(4, 4))
    assert [layer.sparsity for layer in by_layer.layers] == [0.5, 0.5]
    together = prune(plain, method, 0.5, tile=(4, 4), scope="global")
    # All of the weak layer but the one piece of 4 weights that every layer keeps, and one of the strong one.
    assert [layer.nonzero for layer in together.layers] == [4, 60]
    assert together.sparsity == 0.5


def test_convolutions_are_pruned_as_the_matrices_that_crossbars_have() -> None:
    conv = nn.Conv2d(3, 4, 3)
    kept = mask(prune(nn.Sequential(conv), "xcs", 0.5, tile=(9, 4)))
    # Nine word lines are one input channel's kernel.
    assert all(kernel.all() or not kernel.any() for kernel in kept.reshape(12, 9))
    assert kept.sum() == 54
    transposed = nn.ConvTranspose2d(3, 4, 2)
    kept = mask(prune(nn.Sequential(transposed), "xrs", 0.5, tile=(4, 4)))  # (in, out, 2, 2)
    by_input = np.moveaxis(kept, 1, -1).reshape(12, 4)
    assert all(row.all() or not row.any() for row in by_input)
    groups = prune(nn.Sequential(nn.Conv2d(4, 6, 2, groups=2)), "xrs", 0.5, tile=(8, 3))
    assert groups.layers[0].before == groups.layers[0].after == (2, 8, 3)
    assert all(row.all() or not row.any() for row in mask(groups).reshape(2, 3, 8).transpose(0, 2, 1).reshape(16, 3))


def test_an_architecture_tells_the_tile() -> None:
    arch = Architecture(tile=(4, 14), weight_bits=6, slice_bits=3)
    plain = nn.Sequential(nn.Linear(9, 17))
    assert arch.outputs_per_tile == 7
    found, wanted = (prune(plain, "xrs", 0.5, tile=tile) for tile in (arch, (4, 7)))
    assert found.tile == (4, 7)
    assert torch.equal(found.masks["0.weight"], wanted.masks["0.weight"])


@pytest.mark.parametrize("name", ["vgg", "resnet", "grouped", "repeated"])
@pytest.mark.parametrize("method", ["xcs", "xrs"])
def test_networks_keep_everything_but_what_is_masked(name: str, method: str) -> None:
    plain = network(name)
    before = copy.deepcopy(plain)
    pruned = prune(plain, method, 0.5, tile=(8, 4))
    assert same_but_zeroed(pruned, before)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), before.parameters(), strict=True))
    assert pruned.layers
    assert all(0.3 < layer.sparsity < 0.7 for layer in pruned.layers if layer.weights > 60)


def test_layers_may_be_left_alone() -> None:
    plain = network("vgg")
    pruned = prune(plain, "xcs", 0.5, tile=(8, 4), skip=["0", "1*"])
    assert [layer.name for layer in pruned.layers] == ["4", "8"]
    assert set(pruned.masks) == {"4.weight", "8.weight"}


def test_nothing_taken_is_exactly_the_network() -> None:
    plain = network("resnet")
    for method in ("cf", "xcs", "xrs"):
        pruned = prune(plain, method, 0.0, tile=(4, 4))
        assert pruned.sparsity == 0
        assert all(kept.all() for kept in pruned.masks.values())
        assert all(torch.equal(a, b) for a, b in zip(pruned.model.parameters(), plain.parameters(), strict=True))


# Channels ---------------------------------------------------------------------------------------------------------


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
    rows = mask(pruned).reshape(6, -1)
    assert all(row.all() or not row.any() for row in rows)
    assert 0 < rows.any(1).sum() < 6
    assert pruned.model[0].out_channels == pruned.model[4].in_channels == 6
    assert pruned.model[4].out_channels < 5
    assert pruned.model(images).shape == (12, 4)
    told = {layer.name: layer for layer in pruned.layers}
    assert told["0"].nonzero == int(rows.sum())
    assert told["2"].nonzero == 9 * int(mask(pruned, "2").reshape(6, -1).any(1).sum())


class Odd(nn.Module):
    """Two layers and what is between them."""

    def __init__(self, between: Any, inputs: int = 6) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(4, 6), nn.Linear(inputs, 3), between

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3) of (batch, 4)."""
        return F.log_softmax(self.last(self.between(self.first(x))), dim=-1)


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


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("method", {"method": "rows"}),
        ("sparsity", {"sparsity": 1.0}),
        ("sparsity", {"sparsity": -0.1}),
        ("sparsity", {"sparsity": float("nan")}),
        ("sparsity", {"sparsity": "half"}),
        ("tile", {"tile": 128}),
        ("tile inputs", {"tile": (0, 4)}),
        ("tile outputs", {"tile": (4, 2.5)}),
        ("criterion", {"criterion": "linf"}),
        ("scope", {"scope": "tile"}),
        ("skip", {"skip": "first"}),
        ("skip", {"skip": ["second"]}),
        ("network", {"skip": ["*"]}),
    ],
)
def test_wrong_arguments_are_told(name: str, options: dict) -> None:
    with pytest.raises(InputError) as told:
        prune(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), **options)
    assert told.value.name == name


def test_networks_that_cannot_be_pruned_are_told() -> None:
    with pytest.raises(InputError, match="no linear layer"):
        prune(nn.Sequential(nn.ReLU()))
    with pytest.raises(InputError, match="cannot trace it"):
        prune(Odd(lambda x: x if x.sum() > 0 else -x), "cf")
    assert prune(Odd(lambda x: x if x.sum() > 0 else -x), "xcs").sparsity > 0
    broken = linear([[1.0, float("nan")]])
    with pytest.raises(InputError, match="NaN or infinity in '0'"):
        prune(broken, "xcs")
    with pytest.raises(InputError, match="torch module"):
        prune({}, "xcs")  # type: ignore[arg-type]


def test_the_report_is_json() -> None:
    told = json.loads(json.dumps(prune(network("vgg"), "xcs", 0.5, tile=(8, 4)).to_dict()))
    assert told["method"] == "xcs"
    assert told["tile"] == [8, 4]
    assert {"name", "before", "after", "nonzero", "sparsity"} == set(told["layers"][0])
