"""Structured pruning by magnitude: channels and filters (C/F), or crossbar columns (XCS) or crossbar rows (XRS)."""

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
from geniex.mitigation.prune.channel_pruning import Channels, keep_channels, to_matrix, to_weight_shape
from geniex.mitigation.prune.channels import LAYERS
from geniex.mitigation.prune.tiles import Criterion, Scope, Segments, keep_pieces
from geniex.networks import Constraint

Method = Literal["cf", "xcs", "xrs"]


@dataclass(frozen=True)
class PrunedLayer:
    """The result of pruning one layer, whose weights are a matrix (inputs, outputs) on crossbars."""

    name: str
    before: tuple[int, int, int]
    """Number of groups, and inputs and outputs of each group, before pruning."""
    after: tuple[int, int, int]
    """The same numbers after pruning, smaller if channels were removed."""
    nonzero: int
    """Number of weights that are neither removed nor masked."""

    @property
    def weights(self) -> int:
        """The number of weights before pruning."""
        return math.prod(self.before)

    @property
    def sparsity(self) -> float:
        """The share of the original weights that is removed or permanently 0."""
        return 1 - self.nonzero / self.weights


@dataclass(frozen=True)
class Pruned:
    """The result of ``prune``: the network, the masks that keep it pruned, and a record of each layer."""

    model: nn.Module = field(repr=False, compare=False)
    """The pruned network; after "cf" it has smaller layers."""
    masks: dict[str, Tensor] = field(repr=False, compare=False)
    """Masks by parameter, bool, False where the parameter is permanently 0. After "cf" only layers with filters that
    cannot be removed have masks."""
    method: Method
    tile: tuple[int, int] | None
    """Inputs and outputs of a tile; None for "cf"."""
    layers: tuple[PrunedLayer, ...]

    @property
    def constraint(self) -> Constraint:
        """The constraint that keeps the masked weights 0 during training; see ``retrain_network``."""
        return Constraint(masks=self.masks)

    @property
    def sparsity(self) -> float:
        """The share of the pruned layers' weights that is removed or permanently 0."""
        return 1 - sum(layer.nonzero for layer in self.layers) / sum(layer.weights for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary, without the network and the masks."""
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
    """Prune a copy of ``network``: remove a share of its weights in pieces that free crossbar rows or columns.

    The methods are the structured prunings of Bhattacharjee, Bhatnagar and Panda (DATE 2022, section 3). The original
    is untouched. Continue the training with
    ``retrain_network(pruned.model, ..., constraint=pruned.constraint)``.

    Args:
        network: any module; for "cf" torch.fx must be able to trace it.
        method: "cf" (channel/filter pruning) removes filters (columns of the unrolled matrix) together with the
            channels (rows) that they feed in the next layers, which leaves a smaller dense network. Layers whose
            outputs are added (shortcuts) lose the same channels. If an operation mixes channels (groups,
            concatenations, unknown operations), their filters are masked instead. The network's inputs and outputs
            stay. "xcs" (crossbar-column sparsity) zeroes columns of tiles: an output's weights from the inputs of one
            row of tiles. "xrs" (crossbar-row sparsity) zeroes rows: an input's weights to the outputs of one column of
            tiles.
        sparsity: share of the weights to remove, from 0 to below 1; it is met as nearly as whole pieces allow. For
            "cf" it is the share of all layers together; for the others with ``scope`` "layer" that of each layer.
        tile: inputs (word lines) and outputs (with all their slices) of a tile, or an architecture that defines them.
        criterion: measure by which pieces are weakest: mean |w| ("l1") or root mean square ("l2").
        scope: "layer" removes the weakest pieces of each layer (for "cf" the same share of each group of channels),
            "global" the weakest pieces of the network. Each layer keeps at least one piece.
        skip: names of layers to leave as they are, or patterns with ``*``; with "cf" their inputs may still be removed.
            Skip the last layer with "xcs", which may zero all columns of a class.

    Raises:
        InputError: an argument is not allowed, the network has no layers to prune, or it cannot be traced ("cf").

    >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> prune(net, "cf", 0.5).model[0]
    Linear(in_features=8, out_features=3, bias=True)
    >>> prune(net, "xrs", 0.5, tile=(4, 2)).sparsity
    0.5
    """
    extent = _checked(network, method, sparsity, tile, criterion, scope)
    names = list(_chosen(network, skip))
    before = {name: to_matrix(network.get_submodule(name)).shape for name in names}
    masks: dict[str, Tensor] = {}
    if method == "cf":
        channels = Channels(network, names)
        pruned, masks = channels.pruned(keep_channels(channels, sparsity, criterion, scope))
    else:
        pruned = copy.deepcopy(network)
        segments = [Segments(to_matrix(network.get_submodule(name)), method, extent) for name in names]
        for name, piece, kept in zip(names, segments, keep_pieces(segments, sparsity, criterion, scope), strict=True):
            masks[f"{name}.weight"] = to_weight_shape(network.get_submodule(name), piece.mask(kept))
    Constraint(masks=masks).enforce(pruned)
    layers = tuple(_layer(name, before[name], pruned.get_submodule(name), masks) for name in names)
    return Pruned(pruned, masks, method, None if method == "cf" else extent, layers)


def _checked(
    network: object, method: object, sparsity: object, tile: object, criterion: object, scope: object
) -> tuple[int, int]:
    """The tile's inputs and outputs; raises ``InputError`` for an argument that is not allowed."""
    if not isinstance(network, nn.Module):
        raise InputError("network", type(network).__name__, "it must be a torch module")
    for name, value, kind in (("method", method, Method), ("criterion", criterion, Criterion), ("scope", scope, Scope)):
        if value not in get_args(kind):
            raise InputError(name, repr(value), f"it must be one of {', '.join(get_args(kind))}")
    check_number("sparsity", sparsity, low=0.0)
    if cast(float, sparsity) >= 1:
        raise InputError("sparsity", sparsity, "it must be below 1, because some weights must remain")
    if isinstance(tile, Architecture):
        return tile.tile[0], tile.outputs_per_tile
    if not isinstance(tile, tuple | list) or len(tile) != 2:
        raise InputError("tile", repr(tile), "it must be (inputs, outputs), or an Architecture")
    for name, size in zip(("tile inputs", "tile outputs"), tile, strict=True):
        check_positive_int(name, size)
    return int(tile[0]), int(tile[1])


def _chosen(network: nn.Module, skip: Sequence[str]) -> Iterator[str]:
    """Names of the layers that may be pruned."""
    if isinstance(skip, str) or not all(isinstance(pattern, str) for pattern in skip):
        raise InputError("skip", repr(skip), "it must be a list of layers' names or patterns")
    known = [name for name, module in network.named_modules() if type(module) in LAYERS]
    for pattern in skip:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
            raise InputError("skip", repr(pattern), f"it must match a layer: {', '.join(map(repr, known))}")
    names = [name for name in known if not any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)]
    if not names:
        raise InputError("network", type(network).__name__, "it has no linear layer or convolution left to prune")
    for name in names:
        if not torch.isfinite(to_matrix(network.get_submodule(name))).all():
            raise InputError("network", f"NaN or infinity in {name!r}", "every weight must be finite")
    yield from names


def _layer(name: str, before: Sequence[int], module: nn.Module, masks: dict[str, Tensor]) -> PrunedLayer:
    matrix, mask = to_matrix(module), masks.get(f"{name}.weight")
    left = matrix.numel() if mask is None else int(mask.sum())
    (groups, outputs, inputs), after = before, matrix.shape
    return PrunedLayer(name, (groups, inputs, outputs), (after[0], after[2], after[1]), left)
