"""Column rearrangement (R): a layer's columns are sorted by their conductance and then cut into tiles."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from geniex.errors import InputError
from geniex.mitigation.remap.orders import check_order
from geniex.simulator import CrossbarMatrix
from geniex.simulator.transforms import read_integers

Direction = Literal["descending", "ascending"]
Granularity = Literal["layer", "row_tile"]
_FINENESS = 64
"""Sums are rounded to this fraction of an integer, 1 / 64."""


def can_be_sorted(matrix: CrossbarMatrix) -> bool:
    """Whether the matrix' columns can be reordered; the columns of an unrolled convolution cannot."""
    return matrix.layout.outputs_can_move


@torch.no_grad()
def sum_columns(matrix: CrossbarMatrix) -> Tensor:
    """The sum of |w| of each output on each row of tiles (rows of tiles, outputs), float64, in integer weight steps.

    The weights are those that are programmed, including measured and varied ones, and both W+ and W- count. A digital
    gain of an output does not count, because it does not change conductances.
    """
    content = matrix.layout.by_row(read_integers(matrix).abs().sum((1, 3)))
    # Errors of float32 conductances are smaller than this rounding: equal columns have equal sums wherever they lie.
    return (content * _FINENESS).round() / _FINENESS


def sort_columns(
    matrix: CrossbarMatrix, direction: Direction = "descending", granularity: Granularity = "layer"
) -> Tensor:
    """The order of outputs, (outputs,) or (rows of tiles, outputs), that sorts columns by their conductance.

    This is column rearrangement (R) of Bhattacharjee, Bhatnagar and Panda (DATE 2022, section 4): a layer's columns
    are sorted and then cut into tiles, so that most tiles hold columns of low conductance. The paper does not say
    which end comes first. ``Arrangement.of(outputs=order)`` makes the arrangement.

    Args:
        matrix: a programmed matrix.
        direction: "descending" puts the most conductance nearest the drivers and on the first column of tiles, where
            the IR drop is least; "ascending" reverses this. Equal columns keep their order.
        granularity: "layer" sorts whole columns; "row_tile" sorts the columns of each row of tiles by their
            conductance there, and sums are put back into order digitally before rows of tiles are added.

    Raises:
        InputError: the direction or granularity is unknown, or the matrix is an unrolled convolution's.
    """
    check_order("direction", direction, Direction)
    check_order("granularity", granularity, Granularity)
    if not can_be_sorted(matrix):
        raise InputError(
            "matrix", "an unrolled convolution", "its columns are ordered by position: convert with another layout"
        )
    content = sum_columns(matrix)
    sums = content.sum(0) if granularity == "layer" else content
    return sums.argsort(dim=-1, descending=direction == "descending", stable=True)
