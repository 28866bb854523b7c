"""R, column rearrangement: a layer's columns sorted by what conductance they have, then cut into tiles."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from geniex.errors import InputError
from geniex.mapping import UnrolledTiles
from geniex.mitigation.orders import check_order
from geniex.simulator import CrossbarMatrix
from geniex.simulator.exchange import programmed_integers

Direction = Literal["descending", "ascending"]
Granularity = Literal["layer", "row_tile"]
_FINENESS = 64
"""Parts of an integer that sums are rounded to."""


def can_be_sorted(matrix: CrossbarMatrix) -> bool:
    """Whether its columns can be put in another order: those of an unrolled convolution cannot."""
    return not isinstance(matrix.layout, UnrolledTiles)


@torch.no_grad()
def column_content(matrix: CrossbarMatrix) -> Tensor:
    """The sum of |w| of each output on each row of tiles (rows of tiles, outputs), float64, in integers of weights.

    Of the weights as they are programmed, measured or varied ones too; of W+ and W- both. A gain of each output does
    not count, because conductances do not know of it.
    """
    content = matrix.layout.by_row(programmed_integers(matrix).abs().sum((1, 3)))
    # float32 conductances are off by less: equal columns are to have equal sums, wherever they lie.
    return (content * _FINENESS).round() / _FINENESS


def column_order(
    matrix: CrossbarMatrix, direction: Direction = "descending", granularity: Granularity = "layer"
) -> Tensor:
    """The order of outputs, (outputs,) or (rows of tiles, outputs), that sorts columns by their conductance content.

    R of Bhattacharjee, Bhatnagar and Panda (DATE 2022, section 4): a layer's columns are sorted and then cut into
    tiles, so that most tiles hold columns of low conductance; ``Arrangement.of(outputs=order)`` does it. Which end
    comes first is not told there.

    Args:
        matrix: programmed.
        direction: "descending" has the most conductance nearest the drivers and on the first column of tiles, where
            wires take least from it; "ascending" the other way round. Equal columns keep their order.
        granularity: "layer" sorts whole columns, "row_tile" those of each row of tiles by what they have there; sums
            are then put back into their order digitally before rows of tiles are added.

    Raises:
        InputError: an unknown direction or granularity, or an unrolled convolution.
    """
    check_order("direction", direction, Direction)
    check_order("granularity", granularity, Granularity)
    if not can_be_sorted(matrix):
        raise InputError("matrix", "of an unrolled convolution", "its columns lie by position: convert it otherwise")
    content = column_content(matrix)
    sums = content.sum(0) if granularity == "layer" else content
    return sums.argsort(dim=-1, descending=direction == "descending", stable=True)
