"""Fields over the cells of many arrays, in the order in which the solver keeps them: (cols, tiles, rows, vectors).

In this order, the recurrences of a word line run over the first dimension, so that each step is a contiguous slice;
the matrices of a bit line multiply all vectors of a tile at once; and elementwise work sees long runs of memory
whatever the sizes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from geniex.circuit.wires import Scalar, Wires

_LONG_SLICE = 2048
"""Entries per slice from which a loop of slice additions is faster than ``cumsum``, which strides on a CPU."""


def stored(x: Tensor) -> Tensor:
    """A view of ``x`` (tiles, vectors, rows, cols) as (cols, tiles, rows, vectors); ``seen`` is its inverse."""
    return x.permute(3, 0, 2, 1)


def seen(x: Tensor) -> Tensor:
    """A view of ``x`` (cols, tiles, rows, vectors) as (tiles, vectors, rows, cols), the order of a cell's model."""
    return x.permute(1, 3, 2, 0)


def turn(x: Tensor) -> Tensor:
    """The field (..., rows, cols) of the same network with word and bit lines exchanged; its own inverse."""
    return x.transpose(-1, -2).flip(-2, -1)


def turned_wires(wires: Wires) -> Wires:
    """The resistances after ``turn``, where drivers and sense side have changed places."""
    return Wires(wires.r_sink, wires.r_source, wires.r_col, wires.r_row)


def drop_(currents: Tensor, wires: Wires) -> Tensor:
    """K(I) as in ``Wires.drop``, computed in place on a field (cols, tiles, rows, vectors).

    The wires' scalars are () or (tiles, vectors).
    """
    source, sink, row, col = (_over_rows(r) for r in (wires.r_source, wires.r_sink, wires.r_row, wires.r_col))
    # The node in row i of a bit line lies above all segments from there down to the sense side.
    above = currents.cumsum(2)
    above[:, :, :-1] *= col
    above[:, :, -1:] *= sink
    _accumulate_(above.transpose(0, 2), backward=True)
    # Segment j of a word line carries the current into columns >= j; segment 0 is the driver's resistance.
    _accumulate_(currents, backward=True)
    currents[1:] *= row
    currents[0] *= source
    return _accumulate_(currents).add_(above)


def _accumulate_(x: Tensor, backward: bool = False) -> Tensor:
    """Prefix (or suffix) sums over the first dimension, in place."""
    if x.device.type == "cpu" and x[0].numel() >= _LONG_SLICE:
        slices = x.unbind()
        for before, here in pairwise(reversed(slices) if backward else slices):
            here += before
        return x
    return x.copy_(x.flip(0).cumsum(0).flip(0) if backward else x.cumsum(0))


def _over_rows(value: Scalar) -> Scalar:
    """A scalar in the shape that broadcasts against a slice (tiles, rows, vectors)."""
    return value[:, None, :] if isinstance(value, Tensor) and value.dim() == 2 else value


def per_tile(value: Scalar, like: Tensor) -> Tensor:
    """A scalar () or (tiles, vectors) as one value per tile (tiles | 1, 1, 1), the mean over the vectors."""
    scalar = torch.as_tensor(value, device=like.device).to(like.dtype)
    return scalar.mean(1)[:, None, None] if scalar.dim() == 2 else scalar.reshape(1, 1, 1)
