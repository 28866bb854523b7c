"""Outputs put where they cost least: what the loss makes of every output at every place, and the best assignment.

For one matrix, let e[v, j, p] be what output j of vector v gives more at place p than it gives now, as the emulator
says, and g the loss' gradient by the outputs of the network as it is now. An image's loss changes by about

    d[n, j, p] = sum over its vectors of g[v, j] e[v, j, p]

to first order. To second order the Fisher information stands for the loss' curvature, so that an order pi costs

    mean over n of  D[n] + D[n]^2 / 2,   D[n] = sum over j of d[n, j, pi(j)].

Without the products of different outputs this is a sum of costs c[j, p] = mean(d + d^2 / 2), whose least is a linear
sum assignment. From there pairs of outputs change places as long as the whole expression falls.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from geniex.mapping import Arrangement
from geniex.mitigation.orders import nearness
from geniex.simulator import CrossbarMatrix


def place_effects(matrix: CrossbarMatrix, fields: Tensor, gradients: Tensor, samples: int) -> Tensor:
    """d (images, outputs, nearness): what each output adds to each image's loss, were it so near to the drivers.

    The matrix is read with its outputs moved around on every tile, at ``samples`` places each; between them d is
    interpolated.

    Args:
        matrix: as it is now, which is where d is 0.
        fields: (images, vectors, inputs) that it sees.
        gradients: (images, vectors, outputs) of each image's loss.
        samples: places at which each output is read.
    """
    layout = matrix.layout
    near, per_tile = nearness(layout), min(layout.outputs, layout.architecture.outputs_per_tile)
    order = layout.arrangement.outputs
    order = torch.arange(layout.outputs) if order is None else order.cpu()
    now = matrix(fields)
    probe = copy.deepcopy(matrix)
    at, effects = [], []
    for k in range(min(samples, per_tile)):
        moved = _moved(order, per_tile, round(k * per_tile / min(samples, per_tile)))
        if k:
            probe.arrange(Arrangement(moved, layout.arrangement.inputs, layout.arrangement.lines))
        change = (probe(fields) - now) if k else torch.zeros_like(now)
        effects.append((change * gradients).sum(1).double().cpu())
        at.append(torch.empty_like(near).scatter_(0, moved, near))
    return _interpolated(torch.stack(at), torch.stack(effects), per_tile)


def assigned(effects: Tensor, near: Tensor) -> Tensor:
    """The order of outputs (outputs,) of least cost, for d (images, outputs, nearness) and each place's nearness."""
    from scipy.optimize import linear_sum_assignment

    at_places = effects[:, :, near]  # (images, outputs, places)
    cost = (at_places + at_places.square() / 2).mean(0)
    outputs, places = linear_sum_assignment(cost.numpy())
    order = torch.empty(len(near), dtype=torch.int64)
    order[torch.from_numpy(places)] = torch.from_numpy(outputs)
    return _swapped(order, at_places)


def expected_change(effects: Tensor, near: Tensor, order: Tensor) -> float:
    """The mean over images of D + D^2 / 2 for an ``order`` of outputs."""
    total = effects[:, order, near].sum(1)
    return float((total + total.square() / 2).mean())


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
    wanted = torch.arange(per_tile, dtype=torch.float64).expand(len(ordered), -1).contiguous()
    above = torch.searchsorted(ordered, wanted).clamp(1, ordered.shape[1] - 1)
    low, high = ordered.gather(1, above - 1), ordered.gather(1, above)
    share = ((wanted - low) / (high - low).clamp(min=1)).clamp(0, 1)[:, None]
    below, beyond = (values.gather(2, k[:, None].expand(-1, values.shape[1], -1)) for k in (above - 1, above))
    return torch.lerp(below, beyond, share).transpose(0, 1)


def _swapped(order: Tensor, at_places: Tensor) -> Tensor:
    """The order after exchanges of two outputs, the best one first, until none lowers the cost."""
    order, places = order.clone(), torch.arange(len(order))
    at_places = at_places.float()  # it only chooses
    for _ in range(2 * len(order)):
        here = at_places[:, order]  # (images, outputs by their place now, places)
        own = here[:, places, places]
        # Of exchanging what is at places a and b.
        change = here + here.transpose(1, 2) - own[:, :, None] - own[:, None, :]
        weight = 1 + own.sum(1)
        gain = torch.einsum("nab,nab->ab", change, change / 2 + weight[:, None, None]) / len(at_places)
        best = int(gain.argmin())
        if gain.flatten()[best] > -1e-9:
            break
        a, b = divmod(best, len(order))
        order[[a, b]] = order[[b, a]]
    return order
