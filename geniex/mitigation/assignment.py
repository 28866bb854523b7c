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

import torch
from torch import Tensor


def assigned(effects: Tensor, near: Tensor) -> Tensor:
    """The order of outputs (outputs,) of least cost, for d (images, outputs, nearness) and each place's nearness."""
    from scipy.optimize import linear_sum_assignment

    at_places = effects[:, :, near]  # (images, outputs, places)
    cost = (at_places + at_places.square() / 2).mean(0)
    outputs, places = linear_sum_assignment(cost.cpu().numpy())
    order = torch.empty(len(near), dtype=torch.int64)
    order[torch.from_numpy(places)] = torch.from_numpy(outputs)
    return _swapped(order, at_places)


def expected_change(effects: Tensor, near: Tensor, order: Tensor) -> float:
    """The mean over images of D + D^2 / 2 for an ``order`` of outputs."""
    total = effects[:, order, near].sum(1)
    return float((total + total.square() / 2).mean())


def _swapped(order: Tensor, at_places: Tensor) -> Tensor:
    """The order after exchanges of two outputs, the best one first, until none lowers the cost."""
    at_places = at_places.float()  # it only chooses
    order = order.to(at_places.device)
    places = torch.arange(len(order), device=order.device)
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
    return order.cpu()
