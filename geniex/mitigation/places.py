"""What outputs give at other places than they have: one read with all of them moved around a tile, a few times."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from geniex.mapping import Arrangement, Unrolling
from geniex.mitigation.orders import nearness
from geniex.simulator import CrossbarLayer, CrossbarMatrix

RANGE_VECTORS = 64
"""Inputs by which ADC ranges of tiles or columns are chosen anew where outputs have moved."""


def has_places(layer: CrossbarLayer) -> bool:
    """Whether each output has one place, which may be another; in an unrolled convolution each position has its own."""
    return not isinstance(layer.packing, Unrolling)


def has_own_ranges(matrix: CrossbarMatrix) -> bool:
    """Whether its tiles or columns have calibrated ADC ranges of their own, which go with what is on them."""
    return matrix.architecture.adc_range == "calibrated" and matrix.architecture.adc_granularity != "layer"


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
        vectors = fields.flatten(0, -2)[:RANGE_VECTORS]
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
    ``reference``. Each output is read at ``samples`` places; between them d is interpolated.

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
    return _interpolated(torch.stack(at), torch.stack(effects), per_tile)


def _moved(order: Tensor, per_tile: int, by: int) -> Tensor:
    """The order with every tile's outputs ``by`` places farther from the drivers, the last ones nearest."""
    return torch.cat([part.roll(by) for part in order.split(per_tile)])


def _interpolated(at: Tensor, effects: Tensor, per_tile: int) -> Tensor:
    """Effects (images, outputs, per_tile) of those (samples, images, outputs) at nearnesses (samples, outputs).

    Linear in between; beyond the first and last sample as they are there.
    """
    if len(at) == 1:
        return effects[0][..., None].expand(*effects.shape[1:], per_tile)
    ordered, which = at.T.contiguous().double().sort(dim=1)  # (outputs, samples)
    values = effects.permute(2, 1, 0).gather(2, which[:, None].expand(-1, effects.shape[1], -1))
    wanted = torch.arange(per_tile, dtype=torch.float64, device=at.device).expand(len(ordered), -1).contiguous()
    above = torch.searchsorted(ordered, wanted).clamp(1, ordered.shape[1] - 1)
    low, high = ordered.gather(1, above - 1), ordered.gather(1, above)
    share = ((wanted - low) / (high - low).clamp(min=1)).clamp(0, 1)[:, None]
    below, beyond = (values.gather(2, k[:, None].expand(-1, values.shape[1], -1)) for k in (above - 1, above))
    return torch.lerp(below, beyond, share).transpose(0, 1)
