"""Whose outputs may come in any order: moved by hand, what is folded computes the same, and what is not does not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mitigation_cases import ARCH, EMULATORS, NETWORKS, batch, converted, network
from torch import Tensor, nn

from geniex.mapping import im2col
from geniex.mitigation.remap.propagate import Folds, expand_order, find_foldable
from geniex.simulator import convert, find_crossbar_layers

FIXED = ARCH.replace(weight_frac_bits=4, input_frac_bits=4)
Way = Callable[[Any, Tensor], Any]


class Made(nn.Module):
    """A network of some layers, and what it does with them."""

    def __init__(self, way: Way, **layers: nn.Module) -> None:
        super().__init__()
        self.way = way
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.way(self, x)


def folds(model: nn.Module, **options: Any) -> dict[str, tuple[str, ...]]:
    """Consumers by producer."""
    found = find_foldable(convert(model, FIXED, EMULATORS["ideal"], **options))
    assert all(isinstance(value, Folds) for value in found.values())
    return {name: value.consumers for name, value in found.items()}


@torch.no_grad()
def moved(plain: nn.Module, producer: str, consumers: Sequence[str], norms: Sequence[str], seed: int = 0) -> nn.Module:
    """A network whose producer gives its outputs in another order, which the norms know and the consumers take."""
    other: Any = copy.deepcopy(plain)
    first = other.get_submodule(producer)
    count = first.out_features if isinstance(first, nn.Linear) else first.out_channels
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    at = -1 if isinstance(first, nn.Linear) else 1
    first.register_forward_hook(lambda layer, args, y: y.index_select(at, order))
    for name in norms:
        norm = other.get_submodule(name)
        features = expand_order(order, norm.num_features)
        for kept in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            kept.copy_(kept[features])
    for name in consumers:
        layer = other.get_submodule(name)
        rows = layer.weight.flatten(1)
        layer.weight.copy_(rows[:, expand_order(order, rows.shape[1])].reshape(layer.weight.shape))
    return other


def compute_alike(one: nn.Module, other: nn.Module, images: Tensor) -> bool:
    with torch.no_grad():
        wanted, given = one.double()(images.double()), other.double()(images.double())
    return torch.allclose(given, wanted, rtol=1e-9, atol=1e-12)


WHOLE: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "vgg": {"0": (("4",), ("1",)), "4": (("8",), ("5",)), "8": (("11",), ("9",))},
    "resnet": {
        "first.conv1": (("first.conv2",), ("first.norm1",)),
        "second.conv1": (("second.conv2",), ("second.norm1",)),
    },
    "grouped": {"2": (("4",), ()), "4": (("8",), ())},
    "mlp": {"0": (("2",), ()), "2": (("4",), ())},
    "repeated": {},
}
"""Consumers, and the batch norms on the way, by producer."""


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_fold_where_nothing_needs_the_order_and_nowhere_else(name: str) -> None:
    found = {producer: value.consumers for producer, value in find_foldable(converted(name)).items()}
    assert found == {producer: consumers for producer, (consumers, _) in WHOLE[name].items()}
    images = batch(name).images
    for producer, (consumers, norms) in WHOLE[name].items():
        plain = network(name)
        assert compute_alike(plain, moved(plain, producer, consumers, norms), images), producer
        assert not compute_alike(plain, moved(plain, producer, (), norms), images), producer
    for producer in find_crossbar_layers(converted(name)).keys() - WHOLE[name].keys():
        plain = network(name)
        assert not compute_alike(plain, moved(plain, producer, (), ()), images), producer


@pytest.mark.parametrize("size", [(1,), (2, 3), (2, 1, 3)])
def test_the_order_of_inputs_is_that_of_a_field_whose_channels_are_in_order(size: tuple[int, ...]) -> None:
    order = torch.tensor([2, 0, 3, 1])
    maps = torch.rand(1, 4, *size)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(size)](4, 1, size)
    geometry = find_crossbar_layers(nn.Sequential(convert(conv, FIXED, EMULATORS["ideal"])))["0"].geometry
    field, wanted = (im2col(x, geometry)[0][0, 0] for x in (maps, maps[:, order]))  # type: ignore[arg-type]
    found = expand_order(order, field.numel())
    assert torch.equal(field[found], wanted)
    assert torch.equal(maps.flatten(1)[0, found], maps[:, order].flatten(1)[0])
    assert expand_order(order, 8).tolist() == [4, 5, 0, 1, 6, 7, 2, 3]


def conv(inputs: int = 2, outputs: int = 4, kernel: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


MAPS, VECTORS = (3, 2, 4, 4), (3, 4)


@pytest.mark.parametrize(
    "between",
    [
        *(nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Sigmoid()),
        *(nn.Hardswish(), nn.Hardtanh(), nn.Softplus(), nn.Identity(), nn.Dropout(), nn.Dropout2d(), nn.ELU()),
        *(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(2), nn.BatchNorm2d(4)),
        *(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), nn.Sequential()),
    ],
    ids=str,
)
def test_modules_that_treat_channels_alike(between: nn.Module) -> None:
    model = nn.Sequential(conv(), between, conv(4, 3, 2)).eval()
    assert folds(model) == {"0": ("2",)}
    assert compute_alike(model, moved(model, "0", ["2"], ()), torch.randn(MAPS)), "the norm's channels are alike"


@pytest.mark.parametrize(
    "between",
    [
        lambda x: F.relu(x),
        lambda x: torch.relu(x),
        lambda x: x.relu(),
        lambda x: x.relu_(),
        lambda x: F.leaky_relu(x, 0.2),
        lambda x: F.gelu(x),
        lambda x: F.silu(x),
        lambda x: torch.tanh(x).sigmoid(),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.avg_pool2d(F.relu(x), 2, 1),
        lambda x: F.dropout(x, training=False).contiguous(),
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: x.mean(dim=[-1, -2], keepdim=True),
        lambda x: torch.mean(x, (2, -1), True),
    ],
)
def test_functions_that_treat_channels_alike(between: Callable[[Tensor], Tensor]) -> None:
    model = Made(lambda m, x: m.after(between(m.before(x))), before=conv(), after=conv(4, 3))
    assert folds(model) == {"before": ("after",)}
    assert compute_alike(model, moved(model, "before", ["after"], ()), torch.randn(MAPS))


@pytest.mark.parametrize(
    ("flat", "inputs"),
    [
        (lambda x: x.flatten(1), 64),
        (lambda x: x.flatten(start_dim=1), 64),
        (lambda x: torch.flatten(x, 1, -1), 64),
        (lambda x: torch.flatten(x, start_dim=1, end_dim=-1), 64),
        (lambda x: nn.Flatten()(x), 64),
        (lambda x: x.mean((2, 3)), 4),
        (lambda x: torch.mean(x, dim=(-2, -1)).relu(), 4),
    ],
)
def test_maps_that_become_vectors(flat: Callable[[Tensor], Tensor], inputs: int) -> None:
    model = Made(lambda m, x: m.after(flat(m.before(x))), before=conv(), after=nn.Linear(inputs, 3))
    found = folds(model)
    images = torch.randn(MAPS)
    if found:  # a module that is no part of the network cannot be traced
        assert found == {"before": ("after",)}
    else:
        assert isinstance(flat(images), Tensor)
    assert compute_alike(model, moved(model, "before", ["after"], ()), images)


@pytest.mark.parametrize("dims", [1, 3])
def test_maps_of_other_dimensions(dims: int) -> None:
    kinds: Any = {1: (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d), 3: (nn.Conv3d, nn.BatchNorm3d, nn.AvgPool3d)}[dims]
    before, after = kinds[0](2, 4, 1), kinds[0](4, 5, 1)
    model = nn.Sequential(before, kinds[1](4), kinds[2](2), after, nn.Flatten(), nn.Linear(5 * 2**dims, 3)).eval()
    assert folds(model) == {"0": ("3",), "3": ("5",)}
    images = torch.randn(3, 2, *[4] * dims)
    for producer, consumer in (("0", "3"), ("3", "5")):
        assert compute_alike(model, moved(model, producer, [consumer], ()), images)


def test_transposed_convolutions_take_and_give_channels_too() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 4, 2), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2), nn.ReLU(), conv(3, 2))
    assert folds(model) == {"0": ("2",), "2": ("4",)}


def test_vectors_may_hold_several_positions() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5), nn.GELU(), nn.Linear(6, 3)).eval()
    assert folds(model) == {"0": ("3",)}
    assert compute_alike(model, moved(model, "0", ["3"], ()), torch.randn(3, 5, 4))


def test_several_crossbars_may_take_one_output() -> None:
    def way(m: Any, x: Tensor) -> Tensor:
        y = m.before(x).relu()
        return m.left(y) + m.right(F.max_pool2d(y, 1))

    model = Made(way, before=conv(), left=conv(4, 3), right=conv(4, 3))
    assert folds(model) == {"before": ("left", "right")}
    assert compute_alike(model, moved(model, "before", ["left", "right"], ()), torch.randn(MAPS))


def beside(other: Way) -> Way:
    """A crossbar takes the output, and something else besides."""

    def way(m: Any, x: Tensor) -> Any:
        y = m.before(x)
        return m.after(y.relu()), other(m, y)

    return way


UNTOLD: dict[str, tuple[Way, dict[str, nn.Module]]] = {
    "a sum": (lambda m, x: m.after(m.before(x) + x.repeat(1, 2, 1, 1)), {}),
    "a sum in place": (lambda m, x: m.after(m.before(x).add_(1)), {}),
    "a product": (lambda m, x: m.after(m.before(x) * 2), {}),
    "with itself": (lambda m, x: m.after(torch.add(y := m.before(x), y)), {}),
    "a concatenation": (lambda m, x: m.wide(torch.cat([m.before(x), x], 1)), {"wide": conv(6, 3)}),
    "its own output": (lambda m, x: m.before(x).relu(), {}),
    "a sum beside": (beside(lambda m, y: y + 1), {}),
    "an output beside": (beside(lambda m, y: y), {}),
    "a digital layer beside": (beside(lambda m, y: m.digital(y)), {"digital": conv(4, 3)}),
    "a digital layer": (lambda m, x: m.digital(m.before(x)), {"digital": conv(4, 3)}),
    "groups": (lambda m, x: m.split(m.before(x)), {"split": conv(4, 4, groups=2)}),
    "depthwise": (lambda m, x: m.split(m.before(x)), {"split": conv(4, 4, groups=4)}),
    "groups beside": (beside(lambda m, y: m.split(y)), {"split": conv(4, 4, groups=2)}),
    "softmax": (lambda m, x: m.after(m.before(x).softmax(1)), {}),
    "normalised": (lambda m, x: m.after(m.norm(m.before(x))), {"norm": nn.GroupNorm(2, 4)}),
    "slopes of their own": (lambda m, x: m.after(m.norm(m.before(x))), {"norm": nn.PReLU(4)}),
    "shuffled": (lambda m, x: m.after(m.norm(m.before(x))), {"norm": nn.ChannelShuffle(2)}),
    "split": (lambda m, x: m.two(m.before(x)[:, :2]), {"two": conv(2, 3)}),
    "one axis": (lambda m, x: m.row(m.before(x).mean(3).flatten(1)), {"row": nn.Linear(16, 3)}),
    "channels averaged": (lambda m, x: m.one(m.before(x).mean((1, 2), keepdim=True)), {"one": conv(1, 3)}),
    "the last axis alone": (lambda m, x: m.last(m.before(x)), {"last": nn.Linear(4, 3)}),
    "flat from the map on": (lambda m, x: m.last(m.before(x).flatten(2)), {"last": nn.Linear(16, 3)}),
    "flat with the batch": (lambda m, x: m.last(m.before(x).flatten(0, 2)), {"last": nn.Linear(4, 3)}),
    "flattened in part": (lambda m, x: m.last(m.flat(m.before(x))), {"flat": nn.Flatten(2), "last": nn.Linear(16, 3)}),
    "transposed": (lambda m, x: m.after(m.before(x).transpose(1, 2)), {}),
    "reshaped": (lambda m, x: m.last(m.before(x).reshape(3, -1)), {"last": nn.Linear(64, 3)}),
    "called twice": (lambda m, x: m.after(m.before(m.before(x).mean(1, keepdim=True).repeat(1, 2, 1, 1))), {}),
    "a consumer called twice": (lambda m, x: m.same(m.same(m.before(x).relu()).relu()), {"same": conv(4, 4)}),
    "over neighbours": (lambda m, x: m.after(m.norm(m.before(x))), {"norm": nn.LocalResponseNorm(2)}),
    "indices": (lambda m, x: m.after(F.max_pool2d(m.before(x), 2, return_indices=True)[0]), {}),
}


@pytest.mark.parametrize("what", UNTOLD)
def test_all_else_needs_the_natural_order(what: str) -> None:
    way, layers = UNTOLD[what]
    model = Made(way, before=conv(), after=conv(4, 3), **layers).eval()
    model(torch.randn(MAPS))  # such a network works
    assert "before" not in folds(model, per_layer={"digital": None} if "digital" in layers else None)


@pytest.mark.parametrize("pool", [nn.MaxPool2d((3, 1)), nn.AvgPool2d((3, 1)), nn.AdaptiveMaxPool2d((1, 5))])
def test_a_pool_of_more_dimensions_pools_channels(pool: nn.Module) -> None:
    """Maps (batch, channels, length) are (channels, rows, cols) for it."""
    model = nn.Sequential(nn.Conv1d(2, 3, 1), pool, nn.Conv1d(1, 3, 1))
    assert model(torch.rand(4, 2, 5)).shape == (4, 3, 5)
    assert folds(model) == {}
    functional = Made(lambda m, x: m.after(F.max_pool2d(m.before(x), (3, 1))), before=model[0], after=model[2])
    assert folds(functional) == {}


def test_means_are_over_the_whole_map() -> None:
    line = Made(
        lambda m, x: m.after(m.before(x).mean((-2, -1), keepdim=True)),
        before=nn.Conv1d(2, 3, 1),
        after=nn.Conv1d(1, 3, 1),
    )
    assert line(torch.rand(4, 2, 5)).shape == (4, 3, 1)
    assert folds(line) == {}
    volume = Made(lambda m, x: m.after(m.before(x).mean((2, 3))), before=nn.Conv3d(2, 5, 1), after=nn.Linear(4, 3))
    assert volume(torch.rand(4, 2, 2, 2, 4)).shape == (4, 5, 3)
    assert folds(volume) == {}


class Untraceable(nn.Module):
    """Looks at its input's values; what is below it can be traced."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x) if float(x.sum()) > -1e9 else x
        return x


def test_parts_of_what_cannot_be_traced_are_looked_at() -> None:
    block = [nn.Sequential(conv(), nn.ReLU(), conv(4, 2)) for _ in range(2)]
    nested = Untraceable(block[0], conv(2, 2), Untraceable(block[1]))
    assert folds(nested) == {"parts.0.0": ("parts.0.2",), "parts.2.parts.0.0": ("parts.2.parts.0.2",)}


def test_a_layer_in_two_parts_keeps_its_order() -> None:
    """Each part alone would have it in any order."""
    shared = nn.Linear(4, 4)
    one, other = nn.Sequential(shared, nn.ReLU(), nn.Linear(4, 4)), nn.Sequential(shared, nn.ReLU(), nn.Linear(4, 3))
    assert folds(Untraceable(one, other)) == {}
    first, second = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), shared), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), shared)
    assert folds(Untraceable(first, second)) == {}
    both = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    assert folds(Untraceable(both, nn.Sequential(both, nn.Linear(4, 4)))) == {}


def test_nothing_is_folded_on_its_own() -> None:
    assert folds(conv()) == {}
    assert folds(nn.Sequential(nn.Linear(4, 3))) == {}
