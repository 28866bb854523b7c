"""Channel/filter pruning (C/F): removes whole filters and the input channels that they feed; a smaller dense network
remains."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mitigation.prune.channels import LAYERS, Space, count_inputs, count_outputs, find_channel_spaces
from geniex.mitigation.prune.tiles import Criterion, Scope, measure_magnitude
from geniex.networks.widths import select_channels
from geniex.simulator.layers.crossbar import CrossbarLayer, find_crossbar_kind


class Channels:
    """The prunable parts of ``network``: channels of spaces, or only filters if an operation mixes their channels."""

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        self.network, self.names = network, names
        self.spaces = find_channel_spaces(network)
        self.weights = {name: to_matrix(network.get_submodule(name)) for name in self._layers()}
        """Weights (groups, outputs, inputs) of all layers."""
        self.out_of, self.in_of = dict[str, int](), dict[str, int]()
        for k, space in enumerate(self.spaces):
            self.out_of |= dict.fromkeys((*space.producers, *space.followers), k)
            self.in_of |= dict.fromkeys((*space.consumers, *space.followers), k)
        self.removable = [k for k, space in enumerate(self.spaces) if space.removable and self._named(space)]
        self.masked = [
            name
            for name in names
            if name in self.out_of and self._only_mixed(self.spaces[self.out_of[name]]) and name in self.weights
        ]
        """Layers whose filters can be set to 0, but not removed."""

    def scores(self, criterion: Criterion) -> list[Tensor]:
        """Scores of each channel of the ``removable`` spaces, then of each filter of the ``masked`` layers, float64.

        A filter's score is the mean |w| or root mean square of its weights. A channel's score is the mean of this
        figure over all matrices in which it is a filter or an input channel.
        """
        found = [torch.stack(list(self._parts(self.spaces[k], criterion))).mean(0) for k in self.removable]
        filters = (self.weights[name].flatten(0, 1) for name in self.masked)
        return found + [measure_magnitude(rows, criterion, 1, rows.shape[1]).cpu() for rows in filters]

    def left(self, kept: list[int]) -> dict[str, int]:
        """The number of weights of each named layer if the ``kept`` counts of channels and filters stay.

        The counts are in the order of ``scores``.
        """
        of_space, of_layer = self._counts(kept)
        return {name: self._size(name, of_space, of_layer) for name in self.names}

    def pruned(self, kept: list[Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
        """A smaller network that has the ``kept`` channels (bool), and masks, by parameter, of the filters set to 0."""
        network = copy.deepcopy(self.network)
        for k, chosen in zip(self.removable, kept, strict=False):
            index, space = chosen.nonzero().flatten(), self.spaces[k]
            for name in (*space.producers, *space.followers):
                module = network.get_submodule(name)
                select_channels(module, _spread(index, count_outputs(module) // len(chosen)))
            for name in space.consumers:
                module = network.get_submodule(name)
                select_channels(module, inputs=_spread(index, count_inputs(module) // len(chosen)))
        masks = {}
        for name, chosen in zip(self.masked, kept[len(self.removable) :], strict=True):
            module = network.get_submodule(name)
            groups, outputs, inputs = to_matrix(module).shape
            rows = chosen.reshape(groups, outputs, 1).expand(groups, outputs, inputs)
            masks[f"{name}.weight"] = to_weight_shape(module, rows)
        return network, masks

    def _layers(self) -> Iterator[str]:
        return (name for name, module in self.network.named_modules() if type(module) in LAYERS)

    def _named(self, space: Space) -> bool:
        """Whether all producers of the channels may be pruned; the consumers have to follow."""
        return all(name in self.names for name in space.producers)

    def _only_mixed(self, space: Space) -> bool:
        return space.mixed and not space.outside

    def _parts(self, space: Space, criterion: Criterion) -> Iterator[Tensor]:
        """The channels' scores (channels,) from each matrix."""
        for name in space.producers:
            rows = self.weights[name].flatten(0, 1)
            yield measure_magnitude(rows, criterion, 1, rows.shape[1]).cpu()
        for name in space.consumers:
            weight = self.weights[name][0]
            parts = weight.reshape(len(weight), space.channels, -1)
            yield measure_magnitude(parts, criterion, (0, 2), len(weight) * parts.shape[2]).cpu()

    def _counts(self, kept: list[int]) -> tuple[dict[int, int], dict[str, int]]:
        spaces, layers = kept[: len(self.removable)], kept[len(self.removable) :]
        return dict(zip(self.removable, spaces, strict=True)), dict(zip(self.masked, layers, strict=True))

    def _size(self, name: str, of_space: dict[int, int], of_layer: dict[str, int]) -> int:
        groups, outputs, inputs = self.weights[name].shape
        out, into = self.out_of.get(name, -1), self.in_of.get(name, -1)
        if out >= 0 and name in self.spaces[out].followers:  # depthwise
            return of_space.get(out, groups) * outputs * inputs
        rows = of_layer.get(name, of_space.get(out, groups * outputs))
        cols = inputs * of_space[into] // self.spaces[into].channels if into in of_space else inputs
        return rows * cols


def keep_channels(channels: Channels, sparsity: float, criterion: Criterion, scope: Scope) -> list[Tensor]:
    """The mask, bool, of channels and filters to keep, in the order of ``Channels.scores``, to come near ``sparsity``.

    A removed channel takes weights from its producers and its consumers. The sparsity is therefore met by all layers
    together, not by each. ``scope`` "layer" removes the same share of each space's channels, "global" the weakest
    channels of all; each space keeps its strongest channel.
    """
    scores = channels.scores(criterion)
    if not scores:
        raise InputError("network", type(channels.network).__name__, "no layer has channels that can be removed")
    ranks = [score.argsort(stable=True).argsort() for score in scores]
    keys = [(rank + 1) / len(rank) if scope == "layer" else score for rank, score in zip(ranks, scores, strict=True)]
    for key, rank in zip(keys, ranks, strict=True):
        key[rank == len(rank) - 1] = float("inf")
    whole = torch.cat(keys)
    order = whole.argsort(stable=True)
    target = (1 - sparsity) * sum(channels.left([len(score) for score in scores]).values())

    def kept(count: int) -> list[Tensor]:
        alive = torch.ones(len(whole), dtype=torch.bool).index_fill(0, order[:count], False)
        return list(alive.split([len(score) for score in scores]))

    def left(count: int) -> int:
        return sum(channels.left([int(k.sum()) for k in kept(count)]).values())

    low, high = 0, int(whole.isfinite().sum())
    while low < high:  # find the first count that leaves no more weights than the target
        middle = (low + high) // 2
        low, high = (low, middle) if left(middle) <= target else (middle + 1, high)
    best = min(range(max(low - 1, 0), low + 1), key=lambda count: abs(left(count) - target))
    return kept(best)


def to_matrix(module: nn.Module) -> Tensor:
    """A layer's weight as matrices (groups, outputs, inputs), as they are put on crossbars."""
    return _kind_of(module).weight_of(module).detach()


def to_weight_shape(module: nn.Module, matrices: Tensor) -> Tensor:
    """Values for each weight (groups, outputs, inputs) in the shape of the layer's weight parameter."""
    return _kind_of(module).weight_to(module, matrices).contiguous()


def _kind_of(module: nn.Module) -> type[CrossbarLayer]:
    kind = find_crossbar_kind(module)
    assert kind is not None
    return kind


def _spread(index: Tensor, count: int) -> Tensor:
    """The inputs of the channels ``index``, if each channel has ``count`` consecutive inputs."""
    return torch.tensor([k * count + j for k, j in itertools.product(index.tolist(), range(count))])
