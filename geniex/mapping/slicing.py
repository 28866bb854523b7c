"""Bit slices of weights and bit streams of inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.mapping.architecture import Architecture
from geniex.mapping.fixed_point import pass_straight_through, split_signs, to_weight_integers, to_weight_magnitudes
from geniex.mapping.layout.grid import TileLayout


def to_digits(integers: Tensor, bits: int, count: int) -> Tensor:
    """Digits (..., count) of non-negative ``integers`` in base 2^bits, most significant first.

    In the backward pass the derivative of every digit is the integer's, over the sum of the place values, so that the
    weighted sum of the digits has the integer's derivative. Shares of 1 / (count place value) would give the same sum,
    but count the least digit's effect on its neighbours on the tile about as often as the top place value.

    >>> to_digits(torch.tensor([0x2F1]), bits=4, count=3)
    tensor([[ 2, 15,  1]])
    """
    if count == 0:
        return integers[..., None][..., :0]
    whole = integers.detach().to(torch.int32 if bits * count < 31 else torch.int64)
    places = bits * torch.arange(count - 1, -1, -1, dtype=whole.dtype, device=whole.device)
    digits = ((whole[..., None] >> places) & (2**bits - 1)).to(integers.dtype)
    if not integers.requires_grad:
        return digits
    weights = place_values(bits, count, integers)
    return pass_straight_through(digits, integers[..., None] / weights.sum())


def place_values(bits: int, count: int, like: Tensor) -> Tensor:
    """Place values (count,) of the digits, most significant first."""
    return 2.0 ** (bits * torch.arange(count - 1, -1, -1, dtype=torch.float64, device=like.device))


def to_weight_levels(weight: Tensor, architecture: Architecture, frac_bits: int) -> Tensor:
    """Levels (arrays, *weight.shape, slices), float64, that store ``weight``."""
    bits, slices = architecture.slice_bits, architecture.slices
    if architecture.weight_scheme == "differential":
        return to_digits(to_weight_magnitudes(weight, architecture, frac_bits), bits, slices)
    integers, half = to_weight_integers(weight, architecture, frac_bits)[None], 2.0 ** (architecture.weight_bits - 1)
    if architecture.weight_scheme == "offset":
        return to_digits(integers + half, bits, slices)
    sign = (integers.detach() < 0).to(integers)
    rest = integers + half * sign
    return torch.cat([sign[..., None], to_digits(rest, bits, slices - 1)], dim=-1)


def to_bias_levels(architecture: Architecture, like: Tensor) -> Tensor:
    """Levels (slices,) of a tile's bias columns: the digits of the offset that "offset" weights are stored with."""
    half = torch.tensor(2.0 ** (architecture.weight_bits - 1), dtype=torch.float64, device=like.device)
    return to_digits(half, architecture.slice_bits, architecture.slices)


def to_tile_levels(
    weight: Tensor, layout: TileLayout, frac_bits: int, gain: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Levels (row_tiles, arrays, col_tiles, rows, cols) of ``weight`` on its tiles, bit lines in natural order.

    ``gain`` is one for all or one for each output (), (outputs,); None is 1.
    """
    arch = layout.architecture
    bias = to_bias_levels(arch, weight).to(dtype) if arch.bias_cols else None
    by_row = None if gain is None else gain.reshape(-1, 1)

    def digits(part: Tensor) -> Tensor:
        scaled = part if by_row is None else part.double() / by_row
        return to_weight_levels(scaled, arch, frac_bits).to(dtype)

    return layout.levels(weight, digits, bias)


def slice_weights(architecture: Architecture, like: Tensor) -> Tensor:
    """Place values (slices,) of a weight's slices, float64; that of a two's complement sign is negative."""
    if architecture.weight_scheme != "twos_complement":
        return place_values(architecture.slice_bits, architecture.slices, like)
    sign = torch.full((1,), -(2.0 ** (architecture.weight_bits - 1)), dtype=torch.float64, device=like.device)
    return torch.cat([sign, place_values(architecture.slice_bits, architecture.slices - 1, like)])


def to_stream_levels(integers: Tensor, architecture: Architecture, *, passes: int) -> Tensor:
    """Stream levels (passes, streams, ...) of input ``integers``, each in 0 .. 2^stream_bits - 1.

    Pass 0 is the positive part, and pass 1 (where ``passes`` is 2) the negative part. Two's complement and unsigned
    inputs have one pass.
    """
    if architecture.streaming == "twos_complement":
        return _twos_complement_streams(integers, architecture)
    parts = split_signs(integers)[:passes]
    return to_digits(parts, architecture.stream_bits, architecture.streams).movedim(-1, 1)


def _twos_complement_streams(integers: Tensor, architecture: Architecture) -> Tensor:
    """Levels (1, streams, ...) of a sign stream and the streams below it.

    The streams below the sign carry all of the derivative: the place values of all streams add up to -1, and a sign
    stream that is left out must take no gradient with it.
    """
    sign = (integers.detach() < 0).to(integers)
    if architecture.streams == 1:
        return pass_straight_through(sign, -integers)[None, None]
    rest = integers + 2.0 ** (architecture.input_bits - 1) * sign
    digits = to_digits(rest, architecture.stream_bits, architecture.streams - 1)
    return torch.cat([sign[..., None], digits], dim=-1)[None].movedim(-1, 1)


def stream_weights(architecture: Architecture, like: Tensor) -> Tensor:
    """Place values (streams,) of an input's streams; the top one is negative for two's complement."""
    weights = place_values(architecture.stream_bits, architecture.streams, like)
    if architecture.streaming == "twos_complement":
        weights = torch.cat([-weights[:1], weights[1:]])
    return weights
