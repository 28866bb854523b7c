"""The wires of a crossbar, as the linear operator from cell currents to the voltages that they drop.

Word line i runs from the driver V_i through R_source to node r_{i,0}, with R_row between r_{i,j} and r_{i,j+1}. Bit
line j starts at node c_{0,j}, with R_col between c_{i,j} and c_{i+1,j}, and ends with R_sink from c_{N-1,j} to
virtual ground. So

    r = V - I K_row,   K_row[k, j] = R_source + R_row * min(k, j)
    c = K_col I,       K_col[i, k] = R_sink   + R_col * (N - 1 - max(i, k))

and the cell voltage is u = V - K(I), with the symmetric operator K(I) = I K_row + K_col I. Both terms are the same sums
along a line, which has its near end at the driver or at the sense side: each segment carries the current of all cells
beyond it, and each node has lost the voltages of all segments before it. Applying K thus costs O(NM), and it stays
finite when a resistance is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Scalar = float | Tensor
_LONG_SLICE = 2048
"""Entries per slice from which a loop of slice additions is faster than ``cumsum``, which strides on a CPU."""


@dataclass(frozen=True)
class Wires:
    """Resistances in ohm, as floats or as tensors that broadcast against the leading (tile) dimensions."""

    r_source: Scalar
    r_sink: Scalar
    r_row: Scalar
    r_col: Scalar

    def detached(self) -> Wires:
        """The same resistances without their gradients."""
        return Wires(*(r.detach() if isinstance(r, Tensor) else r for r in vars(self).values()))

    def drop(self, currents: Tensor) -> Tensor:
        """K(I): the voltage lost at each cell (..., rows, cols) [V] for cell currents (..., rows, cols) [A]."""
        return self.row_drop(currents) + self.col_drop(currents)

    def row_drop(self, currents: Tensor) -> Tensor:
        """I K_row: how far each word-line node lies below its driver (..., rows, cols) [V]."""
        return line_drop(*_broadcast(currents, self.r_source, self.r_row), dim=-1)

    def col_drop(self, currents: Tensor) -> Tensor:
        """K_col I: how far each bit-line node lies above virtual ground (..., rows, cols) [V]."""
        return line_drop(*_broadcast(currents, self.r_sink, self.r_col), dim=-2, near_last=True)


def line_drop(
    currents: Tensor, first: Scalar, others: Scalar, dim: int, near_last: bool = False, overwrite: bool = False
) -> Tensor:
    """The voltage [V] lost from the near end of each line along ``dim`` to each of its nodes, shaped like ``currents``.

    Args:
        currents: cell currents [A].
        first: resistance of the segment at the near end [ohm], which broadcasts against the currents.
        others: resistance of the other segments [ohm], likewise.
        dim: dimension along the lines.
        near_last: whether the near end is the last entry of the dimension, and not the first.
        overwrite: whether the memory of ``currents`` may be used.
    """
    passing = _running_sums(currents, dim, not near_last, overwrite)
    count = passing.shape[dim] - 1
    passing.narrow(dim, count if near_last else 0, 1).mul_(first)
    passing.narrow(dim, 0 if near_last else 1, count).mul_(others)
    return _running_sums(passing, dim, near_last, overwrite=True)


def _running_sums(x: Tensor, dim: int, backward: bool, overwrite: bool) -> Tensor:
    """Sums of the entries along ``dim`` from the first (or, ``backward``, from the last) up to each entry."""
    if overwrite and x.device.type == "cpu" and not x.requires_grad and x.select(dim, 0).numel() >= _LONG_SLICE:
        slices = x.unbind(dim)
        for before, here in pairwise(reversed(slices) if backward else slices):
            here += before
        return x
    return x.flip(dim).cumsum(dim).flip(dim) if backward else x.cumsum(dim)


def _broadcast(currents: Tensor, first: Scalar, others: Scalar) -> tuple[Tensor, Scalar, Scalar]:
    """Currents (..., rows, cols) that have all leading dimensions of the resistances, and these beside them."""
    first, others = (r[..., None, None] if isinstance(r, Tensor) and r.dim() else r for r in (first, others))
    shapes = [r.shape for r in (first, others) if isinstance(r, Tensor)]
    return currents.expand(torch.broadcast_shapes(currents.shape, *shapes)), first, others
