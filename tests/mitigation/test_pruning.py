"""Pruning takes whole pieces and nothing else: counted by hand, beside NumPy and networks with zeroed weights."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from mitigation_cases import Odd, mask_of, network
from torch import nn

from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.mitigation import Pruned, prune

WEAK, STRONG = 1.0, 4.0


def linear(weight: Any) -> nn.Module:
    """A network of one matrix (outputs, inputs)."""
    rows = torch.as_tensor(np.asarray(weight), dtype=torch.float32)
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    layer.weight.data = rows.clone()
    return nn.Sequential(layer)


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
    assert mask_of(pruned).tolist() == wanted
    assert pruned.sparsity == pytest.approx(5 / 15)
    assert same_but_zeroed(pruned, linear(weight))


def test_rows_of_tiles_are_zeroed_by_hand() -> None:
    """The same transposed: one input's weights to the outputs of one column of tiles."""
    weight = np.array([[3, 3, 1, 1, 9], [1, 1, 5, 5, 0.1], [2, 2, 4, -4, 9]]).T
    pruned = prune(linear(weight), "xrs", 0.4, tile=(64, 2))
    wanted = np.array([[True, True, False, False, True], [False, False, True, True, False], [True] * 5]).T
    assert np.array_equal(mask_of(pruned), wanted)


@pytest.mark.parametrize("criterion", ["l1", "l2"])
@pytest.mark.parametrize("method", ["xcs", "xrs"])
@pytest.mark.parametrize("tile", [(4, 3), (5, 7), (64, 64)])
def test_pieces_are_whole_and_the_weakest(method: str, criterion: str, tile: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).normal(size=(10, 13)).astype(np.float32)
    kept = mask_of(prune(linear(weight), method, 0.6, tile=tile, criterion=criterion))
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
    assert mask_of(prune(linear(weight), "xcs", 0.5, tile=(4, 4), criterion="l1")).any(1).tolist() == [True, False]
    assert mask_of(prune(linear(weight), "xcs", 0.5, tile=(4, 4), criterion="l2")).any(1).tolist() == [False, True]


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
    kept = mask_of(prune(nn.Sequential(conv), "xcs", 0.5, tile=(9, 4)))
    # Nine word lines are one input channel's kernel.
    assert all(kernel.all() or not kernel.any() for kernel in kept.reshape(12, 9))
    assert kept.sum() == 54
    transposed = nn.ConvTranspose2d(3, 4, 2)
    kept = mask_of(prune(nn.Sequential(transposed), "xrs", 0.5, tile=(4, 4)))  # (in, out, 2, 2)
    by_input = np.moveaxis(kept, 1, -1).reshape(12, 4)
    assert all(row.all() or not row.any() for row in by_input)
    groups = prune(nn.Sequential(nn.Conv2d(4, 6, 2, groups=2)), "xrs", 0.5, tile=(8, 3))
    assert groups.layers[0].before == groups.layers[0].after == (2, 8, 3)
    assert all(row.all() or not row.any() for row in mask_of(groups).reshape(2, 3, 8).transpose(0, 2, 1).reshape(16, 3))


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
