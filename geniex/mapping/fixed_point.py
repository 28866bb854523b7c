"""Fixed-point numbers, and the straight-through estimator that carries gradients across rounding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geniex.mapping.architecture import Architecture


def straight_through(value: Tensor, exact: Tensor) -> Tensor:
    """``value`` going forward, the gradient of ``exact`` going backward (the identity across a quantiser)."""
    if not exact.requires_grad:
        return value
    return exact + (value - exact).detach()


def largest_frac_bits(largest: float, bits: int) -> int:
    """The most fraction bits at which ``largest`` still fits ``bits`` (sign included) without clipping.

    >>> largest_frac_bits(1.0, 8)
    6
    """
    return fitting_frac_bits(largest, 2 ** (bits - 1) - 1)


def fitting_frac_bits(largest: float, top: int) -> int:
    """The most fraction bits at which ``largest`` is an integer of at most ``top``.

    >>> fitting_frac_bits(1.0, 255)
    7
    """
    top = max(top, 1)
    if largest <= 0 or not math.isfinite(largest):
        return top.bit_length()
    return math.floor(math.log2(top / largest))


def gain(largest: Tensor, top: int, frac_bits: int) -> Tensor:
    """The real scales by which each of ``largest`` becomes the integer ``top`` at ``frac_bits``; 1 for 0.

    In float32, so that a product of two, and a number's quotient by one, lose nothing in float64.
    """
    scale = (largest.double() / (max(top, 1) * 2.0**-frac_bits)).float()
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def weight_integers(weight: Tensor, architecture: Architecture, frac_bits: int) -> Tensor:
    """Integers, float64, of ``weight`` in ``architecture.weight_range``."""
    return _integers(weight, architecture.weight_bits, architecture.weight_range, frac_bits, architecture.rounding)


def weight_magnitudes(weight: Tensor, architecture: Architecture, frac_bits: int) -> Tensor:
    """Integer magnitudes (2, *weight.shape), float64, of the positive and the negative part."""
    integers = weight_integers(weight, architecture, frac_bits)
    return torch.stack([integers, -integers]).clamp(min=0)


def input_integers(x: Tensor, architecture: Architecture, frac_bits: int) -> Tensor:
    """Integers, float64, of inputs in ``architecture.input_range``."""
    return _integers(x, architecture.input_bits, architecture.input_range, frac_bits, architecture.rounding)


def _integers(x: Tensor, bits: int, ends: tuple[int, int], frac_bits: int, rounding: str) -> Tensor:
    """``x`` in units of its last bit, cut as a magnitude where the range is symmetric, clipped to the range."""
    exact = x.double() * 2.0**frac_bits
    number, symmetric = exact.detach(), ends[0] == -ends[1]
    if symmetric and bits == 1:
        return straight_through(torch.where(number < 0, -1.0, 1.0).double(), exact.clamp(*ends))
    if rounding == "nearest":
        rounded = number.round()
    else:
        rounded = number.trunc() if symmetric else number.floor()
    return straight_through(rounded.clamp(*ends), exact.clamp(*ends))
