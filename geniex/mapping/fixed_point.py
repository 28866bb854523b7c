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
    if largest <= 0 or not math.isfinite(largest):
        return bits - 1
    top = 2 ** (bits - 1) - 1
    return math.floor(math.log2(top / largest))


def weight_magnitudes(weight: Tensor, architecture: Architecture, frac_bits: int) -> Tensor:
    """Integer magnitudes (2, *weight.shape), float64, of the positive and the negative part."""
    top = 2 ** (architecture.weight_bits - 1) - 1
    exact = torch.stack([weight, -weight]).double().clamp(min=0) * 2.0**frac_bits
    return straight_through(_rounded(exact.detach(), architecture).clamp(max=top), exact.clamp(max=top))


def input_integers(x: Tensor, architecture: Architecture, frac_bits: int) -> Tensor:
    """Integer inputs (..., features) in float64: two's complement range for 1-bit streams, else symmetric."""
    top = 2 ** (architecture.input_bits - 1) - 1
    exact = x.double() * 2.0**frac_bits
    if architecture.stream_bits == 1:
        value = exact.detach().floor() if architecture.rounding == "floor" else exact.detach().round()
        return straight_through(value.clamp(-top - 1, top), exact.clamp(-top - 1, top))
    value = torch.copysign(_rounded(exact.detach().abs(), architecture), exact.detach())
    return straight_through(value.clamp(-top, top), exact.clamp(-top, top))


def accumulate(total: Tensor, architecture: Architecture, frac_bits: int) -> Tensor:
    """A tile's integer sum (float64) with ``frac_bits`` as the accumulator holds it, in real units.

    Divided down to the accumulator's fraction, cut off towards zero, wrapped around with the sign of the
    dividend (PUMA's remainder), as real numbers.
    """
    if architecture.accumulator_bits is None:
        return total * 2.0**-frac_bits
    exact = total * 2.0 ** (architecture.accumulator_frac_bits - frac_bits)
    value = torch.fmod(exact.detach().trunc(), 2.0**architecture.accumulator_bits)
    return straight_through(value, exact) * 2.0**-architecture.accumulator_frac_bits


def _rounded(magnitude: Tensor, architecture: Architecture) -> Tensor:
    return magnitude.floor() if architecture.rounding == "floor" else magnitude.round()
