"""XCS and XRS: whole columns, or whole rows, of crossbar tiles zeroed, by magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Criterion = Literal["l1", "l2"]
Scope = Literal["layer", "global"]


def magnitude(weights: Tensor, criterion: Criterion, dim: int | tuple[int, ...], count: Tensor | float) -> Tensor:
    """The norm of ``weights`` over ``dim``, by ``count`` weights: the mean |w| ("l1"), or the root of the mean square.

    By the number of weights, so that what is at a matrix' edge, and layers of other sizes, can be compared.
    """
    wide = weights.double()
    if criterion == "l1":
        return wide.abs().sum(dim) / count
    return (wide.square().sum(dim) / count).sqrt()


class Segments:
    """A layer's matrices (groups, outputs, inputs) in the pieces that are zeroed or kept as one.

    Rows of tiles have ``tile[0]`` inputs each and columns of tiles ``tile[1]`` outputs, from the first ones on, the
    last ones what is left: where a ``TileLayout`` in natural order has them. Of "xcs" a piece is one output on one row
    of tiles (that column of one tile), of "xrs" one input on one column of tiles (that row of one tile).
    """

    def __init__(self, weight: Tensor, method: Literal["xcs", "xrs"], tile: tuple[int, int]) -> None:
        self.shape, self.dim = weight.shape, 2 if method == "xcs" else 1
        self.length = tile[0] if method == "xcs" else tile[1]
        self.weight = weight.detach()

    def scores(self, criterion: Criterion) -> Tensor:
        """Of each piece, float64; in the order of ``sizes``."""
        cut = self._cut(self.weight)
        return magnitude(cut, criterion, -1, self._sizes(cut)).flatten()

    def sizes(self) -> Tensor:
        """Weights of each piece, int64."""
        return self._sizes(self._cut(self.weight)).flatten()

    def mask(self, kept: Tensor) -> Tensor:
        """bool (groups, outputs, inputs), True in the pieces that are ``kept``, bool as ``sizes``."""
        cut = self._cut(self.weight)
        spread = kept.reshape(cut.shape[:-1])[..., None].expand(cut.shape).flatten(-2)
        return spread[..., : self.shape[self.dim]].movedim(-1, self.dim).contiguous()

    def _cut(self, x: Tensor) -> Tensor:
        """(groups, lines, pieces, length), zeros behind the last one."""
        along = x.movedim(self.dim, -1)
        pieces = -(-along.shape[-1] // self.length)
        return F.pad(along, (0, pieces * self.length - along.shape[-1])).unflatten(-1, (pieces, self.length))

    def _sizes(self, cut: Tensor) -> Tensor:
        ends = torch.arange(1, cut.shape[2] + 1, device=cut.device) * self.length
        along = self.length - (ends - self.shape[self.dim]).clamp(min=0)
        return along.expand(cut.shape[:-1])


def kept_pieces(layers: Sequence[Segments], sparsity: float, criterion: Criterion, scope: Scope) -> list[Tensor]:
    """Which pieces of each layer stay, bool: the weakest ones go, as many as come nearest to the ``sparsity``.

    In each layer alone, or in all together. A layer keeps at least its strongest piece.
    """
    scores, sizes = [s.scores(criterion).cpu() for s in layers], [s.sizes().cpu() for s in layers]
    for score in scores:
        score[score.argmax()] = float("inf")
    if scope == "layer":
        return [kept_of(*both, sparsity) for both in zip(scores, sizes, strict=True)]
    return list(kept_of(torch.cat(scores), torch.cat(sizes), sparsity).split([len(score) for score in scores]))


def kept_of(scores: Tensor, sizes: Tensor, sparsity: float) -> Tensor:
    """bool (count,): False for the lowest ``scores``, whose share of all ``sizes`` is nearest to ``sparsity``.

    Those with an infinite score stay. Among equal scores the first ones go first.

    >>> kept_of(torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.tensor([1, 1, 1, 1]), 0.5).tolist()
    [True, False, False, True]
    """
    order = scores.argsort(stable=True)
    removed = F.pad(sizes[order].double().cumsum(0), (1, 0))
    most = int(scores.isfinite().sum())
    count = int((removed[: most + 1] - sparsity * float(sizes.sum())).abs().argmin())
    return torch.ones(len(scores), dtype=torch.bool).index_fill(0, order[:count], False)
