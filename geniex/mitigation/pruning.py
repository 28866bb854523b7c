"""Structured pruning for crossbars: channels (C/F), or columns (XCS) or rows (XRS) of tiles, by magnitude."""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from geniex.config import check_number, check_positive_int
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.mitigation.channel_pruning import Channels, kept_channels, like_weight, matrix_of
from geniex.mitigation.channels import LAYERS
from geniex.mitigation.tile_pruning import Criterion, Scope, Segments, kept_pieces
from geniex.networks import Constraint

Method = Literal["cf", "xcs", "xrs"]


@dataclass(frozen=True)
class PrunedLayer:
    """What pruning took of one layer, as the matrix (inputs, outputs) that its weights are on crossbars."""

    name: str
    before: tuple[int, int, int]
    """Groups, and inputs and outputs of each, before."""
    after: tuple[int, int, int]
    """The same afterwards: fewer where channels were removed."""
    nonzero: int
    """Weights that are left and not masked."""

    @property
    def weights(self) -> int:
        """Weights before."""
        return math.prod(self.before)

    @property
    def sparsity(self) -> float:
        """Share of the weights before that is removed or 0 for good."""
        return 1 - self.nonzero / self.weights


@dataclass(frozen=True)
class Pruned:
    """What ``prune`` made: the network, what keeps it pruned, and what was taken."""

    model: nn.Module = field(repr=False, compare=False)
    """The pruned network; of "cf" with smaller layers."""
    masks: dict[str, Tensor] = field(repr=False, compare=False)
    """By parameter: bool, False where it is 0 for good. Of "cf" only filters that cannot be removed have any."""
    method: Method
    tile: tuple[int, int] | None
    """Inputs and outputs of a tile; None of "cf"."""
    layers: tuple[PrunedLayer, ...]

    @property
    def constraint(self) -> Constraint:
        """What keeps the masked weights 0 in a training; see ``retrain_network``."""
        return Constraint(masks=self.masks)

    @property
    def sparsity(self) -> float:
        """Share of the pruned layers' weights that is removed or 0 for good."""
        return 1 - sum(layer.nonzero for layer in self.layers) / sum(layer.weights for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the network and the masks."""
        layers = [
            asdict(x) | {"before": list(x.before), "after": list(x.after), "sparsity": x.sparsity} for x in self.layers
        ]
        tile = None if self.tile is None else list(self.tile)
        return {"method": self.method, "tile": tile, "sparsity": self.sparsity, "layers": layers}


def prune(
    network: nn.Module,
    method: Method = "xcs",
    sparsity: float = 0.8,
    *,
    tile: tuple[int, int] | Architecture = (128, 128),
    criterion: Criterion = "l1",
    scope: Scope = "layer",
    skip: Sequence[str] = (),
) -> Pruned:
    """``network`` with a share of its weights taken away in pieces that crossbars can do without.

    The structured prunings of Bhattacharjee, Bhatnagar and Panda (DATE 2022, section 3). The original is untouched;
    train the result on with ``retrain_network(pruned.model, ..., constraint=pruned.constraint)``.

    Args:
        network: any module; of "cf" one that torch.fx can trace.
        method: "cf" removes filters (columns of the unrolled matrix) together with the channels (rows) that they feed
            in the next layers: a smaller dense network. Layers whose sum is taken (shortcuts) lose the same channels;
            filters whose channels something mixes (groups, concatenations, what is not known) are masked instead, and
            the network's inputs and outputs stay. "xcs" zeroes columns of tiles: an output's weights from the inputs
            of one row of tiles. "xrs" zeroes rows: an input's weights to the outputs of one column of tiles.
        sparsity: share of the weights to take, 0 to below 1; pieces are whole, so it is met as nearly as they allow.
            Of "cf" the share of all layers together, of the others with ``scope`` "layer" that of each.
        tile: inputs (word lines) and outputs (with all their slices) of a tile, or the architecture that tells them.
        criterion: what the weakest pieces have least of: mean |w| ("l1") or root mean square ("l2").
        scope: "layer" takes the weakest pieces of each layer ("cf": the same share of each group of channels), "global"
            the weakest of the network. Each layer keeps one piece at least.
        skip: names or patterns with ``*`` of layers that are left as they are; with "cf" their inputs may still go.
            Skip the last layer with "xcs", which may take all columns of a class.

    Raises:
        InputError: for each argument; a network without layers to prune, or one that cannot be traced ("cf").

    >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> prune(net, "cf", 0.5).model[0]
    Linear(in_features=8, out_features=3, bias=True)
    >>> prune(net, "xrs", 0.5, tile=(4, 2)).sparsity
    0.5
    """
    extent = _checked(network, method, sparsity, tile, criterion, scope)
    names = list(_chosen(network, skip))
    before = {name: matrix_of(network.get_submodule(name)).shape for name in names}
    masks: dict[str, Tensor] = {}
    if method == "cf":
        channels = Channels(network, names)
        pruned, masks = channels.pruned(kept_channels(channels, sparsity, criterion, scope))
    else:
        pruned = copy.deepcopy(network)
        segments = [Segments(matrix_of(network.get_submodule(name)), method, extent) for name in names]
        for name, piece, kept in zip(names, segments, kept_pieces(segments, sparsity, criterion, scope), strict=True):
            masks[f"{name}.weight"] = like_weight(network.get_submodule(name), piece.mask(kept))
    Constraint(masks=masks).enforce(pruned)
    layers = tuple(_layer(name, before[name], pruned.get_submodule(name), masks) for name in names)
    return Pruned(pruned, masks, method, None if method == "cf" else extent, layers)


def _checked(
    network: object, method: object, sparsity: object, tile: object, criterion: object, scope: object
) -> tuple[int, int]:
    """The tile's inputs and outputs, once all is as it must be."""
    if not isinstance(network, nn.Module):
        raise InputError("network", type(network).__name__, "it must be a torch module")
    for name, value, kind in (("method", method, Method), ("criterion", criterion, Criterion), ("scope", scope, Scope)):
        if value not in get_args(kind):
            raise InputError(name, repr(value), f"it must be one of {', '.join(get_args(kind))}")
    check_number("sparsity", sparsity, low=0.0)
    if cast(float, sparsity) >= 1:
        raise InputError("sparsity", sparsity, "it must be below 1: something has to be left")
    if isinstance(tile, Architecture):
        return tile.tile[0], tile.outputs_per_tile
    if not isinstance(tile, tuple | list) or len(tile) != 2:
        raise InputError("tile", repr(tile), "it must be (inputs, outputs), or an Architecture")
    for name, size in zip(("tile inputs", "tile outputs"), tile, strict=True):
        check_positive_int(name, size)
    return int(tile[0]), int(tile[1])


def _chosen(network: nn.Module, skip: Sequence[str]) -> Iterator[str]:
    """The layers that may be pruned."""
    if isinstance(skip, str) or not all(isinstance(pattern, str) for pattern in skip):
        raise InputError("skip", repr(skip), "it must be a list of layers' names or patterns")
    known = [name for name, module in network.named_modules() if type(module) in LAYERS]
    for pattern in skip:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
            raise InputError("skip", repr(pattern), f"it names no layer; layers are {', '.join(map(repr, known))}")
    names = [name for name in known if not any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)]
    if not names:
        raise InputError("network", type(network).__name__, "it has no linear layer or convolution left to prune")
    for name in names:
        if not torch.isfinite(matrix_of(network.get_submodule(name))).all():
            raise InputError("network", f"NaN or infinity in {name!r}", "every weight must be finite")
    yield from names


def _layer(name: str, before: Sequence[int], module: nn.Module, masks: dict[str, Tensor]) -> PrunedLayer:
    matrix, mask = matrix_of(module), masks.get(f"{name}.weight")
    left = matrix.numel() if mask is None else int(mask.sum())
    (groups, outputs, inputs), after = before, matrix.shape
    return PrunedLayer(name, (groups, inputs, outputs), (after[0], after[2], after[1]), left)
