"""Constraints on weights throughout a training: zeros that stay zero, and a largest magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from geniex.config import check_number
from geniex.errors import InputError


@dataclass(frozen=True, eq=False, kw_only=True)
class Constraint:
    """Masks and limits of a network's parameters, by parameter name, to be enforced after every optimiser step.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(net.weight, 3.0)
    >>> Constraint(masks={"weight": torch.tensor([[True, False]])}, limits={"weight": 0.5}).enforce(net)
    >>> net.weight.tolist()
    [[0.5, 0.0]]
    """

    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """Masks, bool, each in the shape of its parameter; the parameter is 0 where its mask is False."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Largest magnitudes that the values of each parameter may have."""

    def __post_init__(self) -> None:
        for name, mask in self.masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                raise InputError(
                    f"masks[{name!r}]", getattr(mask, "dtype", type(mask).__name__), "it must be a bool tensor"
                )
        for name, limit in self.limits.items():
            check_number(f"limits[{name!r}]", limit, low=0.0)

    def __bool__(self) -> bool:
        return bool(self.masks or self.limits)

    def check(self, network: nn.Module) -> None:
        """Raise ``InputError`` unless every mask and limit names a parameter of ``network``, and every mask fits it."""
        known = dict(network.named_parameters())
        for name in (*self.masks, *self.limits):
            if name not in known:
                raise InputError("constraint", repr(name), f"the parameters are {', '.join(map(repr, known))}")
        for name, mask in self.masks.items():
            if mask.shape != known[name].shape:
                allowed = f"the parameter has shape {tuple(known[name].shape)}"
                raise InputError(f"masks[{name!r}]", f"shape {tuple(mask.shape)}", allowed)

    def to(self, device: torch.device | str) -> Constraint:
        """The same constraint with its masks on ``device``."""
        return Constraint(masks={name: mask.to(device) for name, mask in self.masks.items()}, limits=self.limits)

    @torch.no_grad()
    def enforce(self, network: nn.Module) -> None:
        """Set masked values of ``network`` to 0 and clamp values beyond the limits, in place."""
        parameters = dict(network.named_parameters())
        for name, mask in self.masks.items():
            # Filled rather than multiplied by the mask, so that an infinite weight becomes 0 too.
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)
        for name, limit in self.limits.items():
            parameters[name].clamp_(-limit, limit)
