"""Fixed-point numbers, and the straight-through estimator that carries gradients across rounding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geniex.mapping.architecture import Architecture


def pass_straight_through(value: Tensor, exact: Tensor) -> Tensor:
    """``value`` in the forward pass, with the gradient of ``exact`` in the backward pass (the identity's)."""
    if not exact.requires_grad:
        return value
    return value + (exact - exact.detach())  # adds exactly 0


def clip(x: Tensor, low: float, high: float = math.inf) -> Tensor:
    """``x`` clipped to ``low`` .. ``high``; its gradient is 1 there, both ends included, and 0 beyond.

    The ends are included because a stream of zeros gives counts of exactly 0, an ADC's lowest code, and must still
    carry gradients.
    """
    if not x.requires_grad:
        return x.clamp(low, high)
    return torch.where((x < low) | (x > high), x.detach().clamp(low, high), x)


def split_signs(integers: Tensor) -> Tensor:
    """Magnitudes (2, *integers.shape) of the positive and the negative part; 0 counts as positive."""
    zero, negative = torch.zeros_like(integers), integers < 0
    return torch.stack([torch.where(negative, zero, integers), torch.where(negative, -integers, zero)])


def choose_frac_bits(largest: float, bits: int) -> int:
    """The largest number of fraction bits at which ``largest`` fits ``bits`` (sign included) without clipping.

    >>> choose_frac_bits(1.0, 8)
    6
    """
    return fit_frac_bits(largest, 2 ** (bits - 1) - 1)


def fit_frac_bits(largest: float, top: int) -> int:
    """The largest number of fraction bits at which ``largest`` is an integer of at most ``top``.

    >>> fit_frac_bits(1.0, 255)
    7
    """
    top = max(top, 1)
    if largest <= 0 or not math.isfinite(largest):
        return top.bit_length()
    return math.floor(math.log2(top / largest))


def choose_gain(largest: Tensor, top: int, frac_bits: int) -> Tensor:
    """The real gains by which each of ``largest`` becomes the integer ``top`` at ``frac_bits``; 1 where it is 0.

    Gains are float32, so that the product of two gains and the quotient of a number by a gain lose nothing in float64.
    They are rounded up, so that nothing clips.
    """
    exact = largest.double() / (max(top, 1) * 2.0**-frac_bits)
    near = exact.float()
    above = torch.where(near.double() < exact, torch.nextafter(near, torch.full_like(near, math.inf)), near)
    return torch.where(above > 0, above, torch.ones_like(above))


def to_weight_integers(weight: Tensor, architecture: Architecture, frac_bits: int) -> Tensor:
    """Integers (float64) of ``weight``, clipped to ``architecture.weight_range``."""
    return _integers(weight, architecture.weight_bits, architecture.weight_range, frac_bits, architecture.rounding)


def to_weight_magnitudes(weight: Tensor, architecture: Architecture, frac_bits: int) -> Tensor:
    """Integer magnitudes (2, *weight.shape) of the positive and the negative part, float64."""
    return split_signs(to_weight_integers(weight, architecture, frac_bits))


def to_input_integers(x: Tensor, architecture: Architecture, frac_bits: int) -> Tensor:
    """Integers (float64) of the inputs ``x``, clipped to ``architecture.input_range``."""
    return _integers(x, architecture.input_bits, architecture.input_range, frac_bits, architecture.rounding)


def _integers(x: Tensor, bits: int, ends: tuple[int, int], frac_bits: int, rounding: str) -> Tensor:
    """``x`` in units of its last bit, rounded and clipped; "floor" rounds magnitudes down in a symmetric range."""
    exact = x.double() * 2.0**frac_bits
    number, symmetric = exact.detach(), ends[0] == -ends[1]
    if symmetric and bits == 1:
        return pass_straight_through(torch.where(number < 0, -1.0, 1.0).double(), clip(exact, *ends))
    if rounding == "nearest":
        rounded = number.round()
    else:
        rounded = number.trunc() if symmetric else number.floor()
    return pass_straight_through(rounded.clamp(*ends), clip(exact, *ends))
