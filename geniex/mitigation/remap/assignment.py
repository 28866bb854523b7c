"""The assignment of outputs to places that costs least, from the effect of every output at every place on the loss.

For one matrix, let e[v, j, p] be the change in output j for vector v if this output moves from its present place to
place p, as the emulator computes it. Let g be the gradient of the loss with respect to the outputs of the present
network. An image's loss changes by about

    d[n, j, p] = sum over its vectors of g[v, j] e[v, j, p]

to first order. To second order the Fisher information approximates the curvature of the loss, so that an order pi costs

    mean over n of  D[n] + D[n]^2 / 2,   D[n] = sum over j of d[n, j, pi(j)].

If products of different outputs are neglected, this is a sum of costs c[j, p] = mean(d + d^2 / 2), whose minimum is a
linear sum assignment. From this start pairs of outputs are exchanged as long as the full expression decreases.
"""

from __future__ import annotations

import torch
from torch import Tensor


def assign(effects: Tensor, near: Tensor) -> Tensor:
    """The order of outputs (outputs,) with the least cost.

    ``effects`` is d (images, outputs, nearness), and ``near`` (outputs,) is the nearness of each place.
    """
    from scipy.optimize import linear_sum_assignment

    at_places = effects[:, :, near]  # (images, outputs, places)
    cost = (at_places + at_places.square() / 2).mean(0)
    outputs, places = linear_sum_assignment(cost.cpu().numpy())
    order = torch.empty(len(near), dtype=torch.int64)
    order[torch.from_numpy(places)] = torch.from_numpy(outputs)
    return _swapped(order, at_places)


def expect_change(effects: Tensor, near: Tensor, order: Tensor) -> float:
    """The mean over images of D + D^2 / 2 for the given ``order`` of outputs."""
    total = effects[:, order, near].sum(1)
    return float((total + total.square() / 2).mean())


def _swapped(order: Tensor, at_places: Tensor) -> Tensor:
    """The order after exchanges of two outputs, the best exchange first, until none lowers the cost."""
    at_places = at_places.float()  # enough to choose exchanges
    order = order.to(at_places.device)
    places = torch.arange(len(order), device=order.device)
    for _ in range(2 * len(order)):
        here = at_places[:, order]  # (images, outputs by their place now, places)
        own = here[:, places, places]
        # The change of D (images, a, b) if the outputs at places a and b are exchanged.
        change = here + here.transpose(1, 2) - own[:, :, None] - own[:, None, :]
        weight = 1 + own.sum(1)
        gain = torch.einsum("nab,nab->ab", change, change / 2 + weight[:, None, None]) / len(at_places)
        best = int(gain.argmin())
        if gain.flatten()[best] > -1e-9:
            break
        a, b = divmod(best, len(order))
        order[[a, b]] = order[[b, a]]
    return order.cpu()
