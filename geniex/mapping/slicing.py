"""Bit slices of weights and bit streams of inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.mapping.architecture import Architecture
from geniex.mapping.fixed_point import straight_through


def slice_digits(integers: Tensor, bits: int, count: int) -> Tensor:
    """Digits (..., count) of non-negative ``integers`` in base 2^bits, most significant first.

    Gradients: each digit takes an equal share of the integer, so that the weighted sum of the digits has the
    integer's gradient and a non-linear use of the digits is averaged over them.

    >>> slice_digits(torch.tensor([0x2F1]), bits=4, count=3)
    tensor([[ 2, 15,  1]])
    """
    weights = digit_weights(bits, count, integers)
    digits = torch.remainder(torch.floor(integers.detach()[..., None] / weights), 2**bits).to(integers.dtype)
    if not integers.requires_grad:
        return digits
    return straight_through(digits, integers[..., None] / (weights * count))


def digit_weights(bits: int, count: int, like: Tensor) -> Tensor:
    """Place values (count,) of the digits, most significant first."""
    return 2.0 ** (bits * torch.arange(count - 1, -1, -1, dtype=torch.float64, device=like.device))


def stream_digits(integers: Tensor, architecture: Architecture, *, passes: int) -> Tensor:
    """Stream levels (passes, streams, ...) of input ``integers``, each in 0 .. 2^stream_bits - 1.

    Pass 0 is the positive part, pass 1 (if ``passes`` is 2) the negative; 1-bit streams have one pass in two's
    complement.
    """
    if architecture.stream_bits == 1:
        wrapped = torch.where(integers < 0, integers + 2.0**architecture.input_bits, integers)
        parts = wrapped[None]
    else:
        parts = torch.stack([integers, -integers][:passes]).clamp(min=0)
    return slice_digits(parts, architecture.stream_bits, architecture.streams).movedim(-1, 1)


def stream_weights(architecture: Architecture, like: Tensor) -> Tensor:
    """Place values (streams,), the top one negative for two's complement 1-bit streams."""
    weights = digit_weights(architecture.stream_bits, architecture.streams, like)
    if architecture.stream_bits == 1:
        weights = torch.cat([-weights[:1], weights[1:]])
    return weights
