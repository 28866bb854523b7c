"""Outputs read at other places than their own: all outputs are moved around their tile together, a few times."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from geniex.mapping import Arrangement
from geniex.mitigation.remap.orders import count_nearer
from geniex.simulator import CrossbarLayer, CrossbarMatrix

_RANGE_VECTORS = 64
"""Number of inputs by which ADC ranges of tiles or columns are chosen again after outputs have moved."""


def has_places(layer: CrossbarLayer) -> bool:
    """Whether each output has one place, which can be changed.

    In an unrolled convolution an output has a place for each position. On compacted tiles, and if rows of tiles have
    their own orders, it has a place for each row of tiles.
    """
    matrices = (matrix for matrix in layer.matrices if isinstance(matrix, CrossbarMatrix))
    return all(matrix.layout.one_place_each for matrix in matrices)


def has_own_ranges(matrix: CrossbarMatrix) -> bool:
    """Whether each tile or column has its own calibrated ADC range, which depends on the outputs placed there."""
    return matrix.architecture.adc_range == "calibrated" and matrix.architecture.adc_granularity != "layer"


def sample_range_vectors(fields: Tensor) -> Tensor:
    """Evenly spaced samples (count, inputs) of ``fields`` (..., inputs), by which ADC ranges are chosen."""
    vectors = fields.flatten(0, -2)
    return vectors[:: -(-len(vectors) // _RANGE_VECTORS)]


@torch.no_grad()
def read_at_places(matrix: CrossbarMatrix, fields: Tensor, samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The nearness of each output (outputs,) and its value there (..., outputs), for ``samples`` places of each.

    The first places are the present ones. ``fields`` (..., inputs) are the matrix' inputs. All outputs move together,
    so that each output is always read with all others beside it.
    """
    layout, device = matrix.layout, fields.device
    near, per_tile = count_nearer(layout), min(layout.outputs, layout.architecture.outputs_per_tile)
    order = layout.arrangement.outputs
    order = torch.arange(layout.outputs) if order is None else order.cpu()
    probe, vectors = copy.deepcopy(matrix), None
    if has_own_ranges(matrix):
        vectors = sample_range_vectors(fields)
    for k in range(min(samples, per_tile)):
        moved = _moved(order, per_tile, round(k * per_tile / min(samples, per_tile)))
        if k:
            probe.arrange(Arrangement(moved, layout.arrangement.inputs, layout.arrangement.lines), vectors)
        yield torch.empty_like(near).scatter_(0, moved, near).to(device), probe(fields)


@torch.no_grad()
def measure_place_effects(
    matrix: CrossbarMatrix, fields: Tensor, gradients: Tensor, samples: int, reference: Tensor | None = None
) -> Tensor:
    """The change d (images, outputs, nearness) of each image's loss if an output lay at a given nearness.

    To first order d is the gradient times the output's difference from ``reference`` at that place, summed over the
    image's vectors. Each output is read at ``samples`` places, and d is taken from the least-squares line through
    them.

    Args:
        matrix: the matrix with its present arrangement.
        fields: inputs (images, vectors, inputs) of the matrix.
        gradients: gradients (images, vectors, outputs) of each image's loss.
        samples: number of places at which each output is read.
        reference: outputs (images, vectors, outputs) for which d is 0; None means the matrix' present outputs.
    """
    at, effects = [], []
    for near, given in read_at_places(matrix, fields, samples):
        reference = given if reference is None else reference
        at.append(near)
        effects.append(((given - reference) * gradients).sum(1).double())
    per_tile = min(matrix.layout.outputs, matrix.architecture.outputs_per_tile)
    return _line(torch.stack(at), torch.stack(effects), per_tile)


def _moved(order: Tensor, per_tile: int, by: int) -> Tensor:
    """The order with every tile's outputs moved ``by`` places away from the drivers; the last ones become nearest."""
    return torch.cat([part.roll(by) for part in order.split(per_tile)])


def _line(at: Tensor, effects: Tensor, per_tile: int) -> Tensor:
    """Effects (images, outputs, per_tile) at all places, from ``effects`` (samples, images, outputs) at the nearnesses
    ``at`` (samples, outputs).

    The effects lie on each output's least-squares line. The loss along the wires grows with the distance from the
    drivers. Other differences between places come from the neighbouring outputs, and keeping them would fit the order
    to these images alone.
    """
    at = at.double()
    apart = at - at.mean(0)
    spread = apart.square().sum(0)
    slope = (effects * apart[:, None]).sum(0) / torch.where(spread > 0, spread, 1.0)  # (images, outputs)
    places = torch.arange(per_tile, dtype=torch.float64, device=at.device) - at.mean(0)[:, None]
    return effects.mean(0)[..., None] + slope[..., None] * places
