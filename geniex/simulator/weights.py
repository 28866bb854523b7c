"""Trained weights of matrices on crossbars: whether they have changed, and the ends that their scale can hold."""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit.checks import has_values
from geniex.mapping import Architecture


class WeightWatch:
    """Tells whether a trained weight has changed since it was programmed; ``programmed`` None is never programmed."""

    def __init__(self, weight: Tensor, programmed: Tensor | None = None) -> None:
        self.state, self.programmed = _state(weight), programmed

    def has_changed(self, weight: Tensor) -> bool:
        """Whether ``weight`` is another than the programmed one.

        Writes to ``.data`` leave no trace, so the values are compared on the CPU.
        """
        if self.programmed is None or _state(weight) != self.state:
            return True
        return weight.device.type == "cpu" and has_values(weight) and not torch.equal(weight, self.programmed)


def find_weight_ends(
    architecture: Architecture, frac_bits: int, gain: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The lowest and the highest weight in ``dtype`` that fixed point holds, () or (outputs, 1) with ``gain``."""
    last_bit = (torch.ones(()) if gain is None else gain.reshape(-1, 1)).double() * 2.0**-frac_bits
    low, high = (_towards_zero(end * last_bit, dtype) for end in architecture.weight_range)
    return low, high


def _state(weight: Tensor) -> tuple[int, int, int]:
    """A value that changes when the weight does: a copied or loaded weight is another tensor, of any version."""
    return (id(weight), weight._version, weight.data_ptr() if has_values(weight) else 0)


def _towards_zero(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` rounded to ``dtype``, to no larger magnitude."""
    near = value.to(dtype)
    return torch.where(near.abs() > value.abs(), torch.nextafter(near, torch.zeros_like(near)), near)
