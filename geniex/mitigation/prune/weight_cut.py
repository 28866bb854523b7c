"""Weight-constrained training (WCT): weights are cut to a fraction of the full scale, which stays the same."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from geniex.config import check_number
from geniex.errors import InputError
from geniex.mitigation.prune.channel_pruning import to_matrix
from geniex.mitigation.prune.channels import LAYERS
from geniex.networks import Constraint


def weight_full_scales(network: nn.Module) -> dict[str, float]:
    """The largest |weight| of every linear layer and convolution of ``network``, by name.

    ``convert`` would scale the conductances of this network by these values. Take them before weights are cut, and
    pass them to the conversion afterwards: ``convert(..., per_layer=...)`` with a
    ``LayerRule(weight_full_scale=scale)`` for each layer.
    """
    layers = {name: module for name, module in network.named_modules() if type(module) in LAYERS}
    return {name: float(to_matrix(module).abs().max()) for name, module in layers.items()}


def weight_cut(network: nn.Module, cut: float | Mapping[str, float]) -> Constraint:
    """The limits of weight-constrained training (WCT; Bhattacharjee, Bhatnagar and Panda, DATE 2022, section 4).

    Fine-tune for a few epochs with ``retrain_network(network, ..., constraint=weight_cut(network, 0.5))``, then convert
    with the full scale from before the cut. All conductances are then low, so that wires take least from them. If the
    cut weights were scaled by their own maximum, they would spread over the whole conductance window again, and more
    conductances would be high.

    Args:
        network: the network before its weights are cut.
        cut: W_cut of each layer as a share of its largest |weight|, above 0 up to 1; or a mapping of W_cut itself, by
            name of each layer to cut.

    >>> net = nn.Linear(2, 2)
    >>> _ = nn.init.constant_(net.weight, -0.5)
    >>> weight_cut(nn.Sequential(net), 0.4).limits
    {'0.weight': 0.2}
    """
    scales = weight_full_scales(network)
    if not scales:
        raise InputError("network", type(network).__name__, "it has no linear layer or convolution")
    if not isinstance(cut, Mapping):
        check_number("cut", cut, low=0.0, open_low=True)
        if cut > 1:
            raise InputError("cut", cut, "it must be at most 1, because it is a share of the largest weight")
        return Constraint(limits={f"{name}.weight": cut * scale for name, scale in scales.items()})
    for name, limit in cut.items():
        if name not in scales:
            raise InputError("cut", repr(name), f"layers are {', '.join(map(repr, scales))}")
        check_number(f"cut[{name!r}]", limit, low=0.0, open_low=True)
    return Constraint(limits={f"{name}.weight": float(limit) for name, limit in cut.items()})
