"""What outputs give at other places than they have: one read with all of them moved around a tile, a few times."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from geniex.mapping import Arrangement, SqueezedTiles, Unrolling
from geniex.mitigation.orders import nearness
from geniex.simulator import CrossbarLayer, CrossbarMatrix

_RANGE_VECTORS = 64
"""Inputs by which ADC ranges of tiles or columns are chosen anew where outputs have moved."""


def has_places(layer: CrossbarLayer) -> bool:
    """Whether each output has one place, which may be another.

    In an unrolled convolution each position has its own, on squeezed tiles and where rows of tiles have orders of their
    own each row.
    """
    layouts = [matrix.layout for matrix in layer.matrices if isinstance(matrix, CrossbarMatrix)]
    apart = any(isinstance(layout, SqueezedTiles) or layout.arrangement.by_row for layout in layouts)
    return not (isinstance(layer.packing, Unrolling) or apart)


def has_own_ranges(matrix: CrossbarMatrix) -> bool:
    """Whether its tiles or columns have calibrated ADC ranges of their own, which go with what is on them."""
    return matrix.architecture.adc_range == "calibrated" and matrix.architecture.adc_granularity != "layer"


def range_vectors(fields: Tensor) -> Tensor:
    """Some of ``fields`` (..., inputs) by which to choose ADC ranges (count, inputs), from all over them."""
    vectors = fields.flatten(0, -2)
    return vectors[:: -(-len(vectors) // _RANGE_VECTORS)]


@torch.no_grad()
def at_places(matrix: CrossbarMatrix, fields: Tensor, samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Nearness of each output (outputs,) and what it gives there (..., outputs), at ``samples`` places each.

    The first ones are where outputs are now. ``fields`` (..., inputs) is what the matrix sees; all outputs move
    together, so that each has all others beside it.
    """
    layout, device = matrix.layout, fields.device
    near, per_tile = nearness(layout), min(layout.outputs, layout.architecture.outputs_per_tile)
    order = layout.arrangement.outputs
    order = torch.arange(layout.outputs) if order is None else order.cpu()
    probe, vectors = copy.deepcopy(matrix), None
    if has_own_ranges(matrix):
        vectors = range_vectors(fields)
    for k in range(min(samples, per_tile)):
        moved = _moved(order, per_tile, round(k * per_tile / min(samples, per_tile)))
        if k:
            probe.arrange(Arrangement(moved, layout.arrangement.inputs, layout.arrangement.lines), vectors)
        yield torch.empty_like(near).scatter_(0, moved, near).to(device), probe(fields)


@torch.no_grad()
def place_effects(
    matrix: CrossbarMatrix, fields: Tensor, gradients: Tensor, samples: int, reference: Tensor | None = None
) -> Tensor:
    """d (images, outputs, nearness): what each output adds to each image's loss, were it so near to the drivers.

    To first order: the sum over an image's vectors of the gradient times what the output gives more there than
    ``reference``. Each output is read at ``samples`` places; d is on the line through them.

    Args:
        matrix: as it is now.
        fields: (images, vectors, inputs) that it sees.
        gradients: (images, vectors, outputs) of each image's loss.
        samples: places at which each output is read.
        reference: (images, vectors, outputs) where d is 0; None is what the matrix gives now.
    """
    at, effects = [], []
    for near, given in at_places(matrix, fields, samples):
        reference = given if reference is None else reference
        at.append(near)
        effects.append(((given - reference) * gradients).sum(1).double())
    per_tile = min(matrix.layout.outputs, matrix.architecture.outputs_per_tile)
    return _line(torch.stack(at), torch.stack(effects), per_tile)


def _moved(order: Tensor, per_tile: int, by: int) -> Tensor:
    """The order with every tile's outputs ``by`` places farther from the drivers, the last ones nearest."""
    return torch.cat([part.roll(by) for part in order.split(per_tile)])


def _line(at: Tensor, effects: Tensor, per_tile: int) -> Tensor:
    """Effects (images, outputs, per_tile) of those (samples, images, outputs) at nearnesses (samples, outputs).

    On each output's least-squares line: wires take more the farther an output lies, so that whatever else differs
    between places is what the other outputs beside it make of them, and would be fitted to these images alone.
    """
    at = at.double()
    apart = at - at.mean(0)
    spread = apart.square().sum(0)
    slope = (effects * apart[:, None]).sum(0) / torch.where(spread > 0, spread, 1.0)  # (images, outputs)
    places = torch.arange(per_tile, dtype=torch.float64, device=at.device) - at.mean(0)[:, None]
    return effects.mean(0)[..., None] + slope[..., None] * places
