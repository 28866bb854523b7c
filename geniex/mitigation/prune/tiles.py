"""Crossbar-column sparsity (XCS) and crossbar-row sparsity (XRS): tiles' columns or rows are zeroed by magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Criterion = Literal["l1", "l2"]
Scope = Literal["layer", "global"]


def measure_magnitude(
    weights: Tensor, criterion: Criterion, dim: int | tuple[int, ...], count: Tensor | float
) -> Tensor:
    """The mean |w| ("l1") or the root mean square ("l2") of ``weights`` over ``dim``, for ``count`` weights.

    Dividing by the number of weights makes pieces at a matrix' edge, and layers of different sizes, comparable.
    """
    wide = weights.double()
    if criterion == "l1":
        return wide.abs().sum(dim) / count
    return (wide.square().sum(dim) / count).sqrt()


class Segments:
    """A layer's matrices (groups, outputs, inputs) cut into pieces, each of which is zeroed or kept as a whole.

    Each row of tiles has ``tile[0]`` inputs and each column of tiles ``tile[1]`` outputs; the last ones have the rest.
    This is how a ``TileLayout`` in natural order cuts the matrix. For "xcs" a piece is one output on one row of tiles
    (that column of one tile). For "xrs" a piece is one input on one column of tiles (that row of one tile).
    """

    def __init__(self, weight: Tensor, method: Literal["xcs", "xrs"], tile: tuple[int, int]) -> None:
        self.shape, self.dim = weight.shape, 2 if method == "xcs" else 1
        self.length = tile[0] if method == "xcs" else tile[1]
        self.weight = weight.detach()

    def scores(self, criterion: Criterion) -> Tensor:
        """The magnitude of each piece, float64, in the order of ``sizes``."""
        cut = self._cut(self.weight)
        return measure_magnitude(cut, criterion, -1, self._sizes(cut)).flatten()

    def sizes(self) -> Tensor:
        """The number of weights in each piece, int64."""
        return self._sizes(self._cut(self.weight)).flatten()

    def mask(self, kept: Tensor) -> Tensor:
        """A bool mask (groups, outputs, inputs), True in the ``kept`` pieces (bool, in the order of ``sizes``)."""
        cut = self._cut(self.weight)
        spread = kept.reshape(cut.shape[:-1])[..., None].expand(cut.shape).flatten(-2)
        return spread[..., : self.shape[self.dim]].movedim(-1, self.dim).contiguous()

    def _cut(self, x: Tensor) -> Tensor:
        """``x`` cut into pieces (groups, lines, pieces, length), padded with zeros after the last weight."""
        along = x.movedim(self.dim, -1)
        pieces = -(-along.shape[-1] // self.length)
        return F.pad(along, (0, pieces * self.length - along.shape[-1])).unflatten(-1, (pieces, self.length))

    def _sizes(self, cut: Tensor) -> Tensor:
        ends = torch.arange(1, cut.shape[2] + 1, device=cut.device) * self.length
        along = self.length - (ends - self.shape[self.dim]).clamp(min=0)
        return along.expand(cut.shape[:-1])


def keep_pieces(layers: Sequence[Segments], sparsity: float, criterion: Criterion, scope: Scope) -> list[Tensor]:
    """The mask, bool, of the pieces of each layer to keep; the weakest are removed, to come nearest to ``sparsity``.

    ``scope`` "layer" meets the sparsity in each layer, "global" in all together. A layer keeps at least its strongest
    piece.
    """
    scores, sizes = [s.scores(criterion).cpu() for s in layers], [s.sizes().cpu() for s in layers]
    for score in scores:
        score[score.argmax()] = float("inf")
    if scope == "layer":
        return [keep_largest(*both, sparsity) for both in zip(scores, sizes, strict=True)]
    return list(keep_largest(torch.cat(scores), torch.cat(sizes), sparsity).split([len(score) for score in scores]))


def keep_largest(scores: Tensor, sizes: Tensor, sparsity: float) -> Tensor:
    """A bool mask (count,), False for the lowest ``scores``, whose share of all ``sizes`` is nearest to ``sparsity``.

    Pieces with an infinite score stay. Among equal scores the first ones are removed first.

    >>> keep_largest(torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.tensor([1, 1, 1, 1]), 0.5).tolist()
    [True, False, False, True]
    """
    order = scores.argsort(stable=True)
    removed = F.pad(sizes[order].double().cumsum(0), (1, 0))
    most = int(scores.isfinite().sum())
    count = int((removed[: most + 1] - sparsity * float(sizes.sum())).abs().argmin())
    return torch.ones(len(scores), dtype=torch.bool).index_fill(0, order[:count], False)
