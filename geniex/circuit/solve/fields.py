"""Fields over the cells of many arrays, in the order in which the solver keeps them: (cols, tiles, rows, vectors).

In this order, the recurrences of a word line run over the first dimension, so that each step is a contiguous slice;
the matrices of a bit line multiply all vectors of a tile at once; and elementwise work sees long runs of memory
whatever the sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit.wires import Scalar, Wires, line_drop


def to_field(x: Tensor) -> Tensor:
    """A view of ``x`` (tiles, vectors, rows, cols) as (cols, tiles, rows, vectors); ``from_field`` is its inverse."""
    return x.permute(3, 0, 2, 1)


def from_field(x: Tensor) -> Tensor:
    """A view of ``x`` (cols, tiles, rows, vectors) as (tiles, vectors, rows, cols), the order of a cell's model."""
    return x.permute(1, 3, 2, 0)


def turn(x: Tensor) -> Tensor:
    """The field (..., rows, cols) of the same network with word and bit lines exchanged; its own inverse."""
    return x.transpose(-1, -2).flip(-2, -1)


def turn_wires(wires: Wires) -> Wires:
    """The resistances after ``turn``, where drivers and sense side have changed places."""
    return Wires(wires.r_sink, wires.r_source, wires.r_col, wires.r_row)


def drop_(currents: Tensor, wires: Wires) -> Tensor:
    """K(I) as in ``Wires.drop`` for a field (cols, tiles, rows, vectors), whose memory is overwritten.

    The wires' scalars are () or (tiles, vectors).
    """
    source, sink, row, col = (_over_rows(r) for r in (wires.r_source, wires.r_sink, wires.r_row, wires.r_col))
    above_ground = line_drop(currents, sink, col, dim=2, near_last=True)
    return line_drop(currents, source, row, dim=0, overwrite=True).add_(above_ground)


def _over_rows(value: Scalar) -> Scalar:
    """A scalar in the shape that broadcasts against a slice (tiles, rows, vectors)."""
    return value[:, None, :] if isinstance(value, Tensor) and value.dim() == 2 else value


def average_per_tile(value: Scalar, like: Tensor) -> Tensor:
    """A scalar () or (tiles, vectors) as one value per tile (tiles | 1, 1, 1), the mean over the vectors."""
    scalar = torch.as_tensor(value, device=like.device).to(like.dtype)
    return scalar.mean(1)[:, None, None] if scalar.dim() == 2 else scalar.reshape(1, 1, 1)
