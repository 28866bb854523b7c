"""From counts to numbers: shifts and adds over slices and streams, the accumulator, and the signs of its sums."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geniex.mapping import Architecture, TileLayout
from geniex.mapping.fixed_point import clip, straight_through
from geniex.mapping.slicing import slice_weights


def shift_add(counts: Tensor, place: Tensor, layout: TileLayout) -> Tensor:
    """Sums (passes, inputs, row_tiles, converters, col_tiles, outputs), float64, over slices and streams.

    Of ``counts`` (reads, inputs, row_tiles, converters, col_tiles, cols), with the place values (passes, reads) of the
    reads. Bias columns that have an ADC of their own are subtracted here.
    """
    arch = layout.architecture
    # Row tiles first, as batched products leave them: then nothing large is copied.
    counts = counts.movedim(2, 0)
    slices = layout.slices_of(counts).double()
    if arch.bias_cols and arch.offset != "analog_difference":
        slices = slices - layout.bias_of(counts).double()[..., None, :]
    return torch.tensordot(place, (slices @ slice_weights(arch, slices)).movedim(0, 2), dims=1)


class BinaryPoints(NamedTuple):
    """Where the binary points of a matrix's sums lie."""

    exact: int
    """Fraction bits of the sums of whole weights times whole inputs."""
    held: int
    """Fraction bits that the accumulator keeps; of no consequence where it is unbounded."""


def accumulate(total: Tensor, architecture: Architecture, points: BinaryPoints) -> Tensor:
    """A tile's sum ``total`` (float64, in whole numbers) as the accumulator holds it, in real units.

    The sum is divided down to the accumulator's fraction, cut off towards zero, then wrapped around with the sign of
    the dividend (PUMA's remainder) or saturated.
    """
    bits = architecture.accumulator_bits
    if bits is None:
        return total * 2.0**-points.exact
    scaled = total * 2.0 ** (points.held - points.exact)
    whole = scaled.detach().trunc()
    if architecture.accumulator_overflow == "wrap":
        held = straight_through(torch.fmod(whole, 2.0**bits), scaled)
    else:
        held = clip(straight_through(whole, scaled), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    return held * 2.0**-points.held


def overflows(total: Tensor, architecture: Architecture, points: BinaryPoints) -> Tensor:
    """Whether the accumulator wraps or saturates each sum ``total``, in whole numbers."""
    bits = architecture.accumulator_bits
    if bits is None:
        return torch.zeros_like(total, dtype=torch.bool)
    whole = (total * 2.0 ** (points.held - points.exact)).trunc()
    if architecture.accumulator_overflow == "wrap":
        return whole.abs() >= 2.0**bits
    return (whole < -(2.0 ** (bits - 1))) | (whole > 2.0 ** (bits - 1) - 1)


def signed_sum(held: Tensor, layout: TileLayout, at: slice | None = None) -> Tensor:
    """Products (inputs, col_tiles, outputs) of what the accumulators hold, as ``shift_add`` lays them out.

    The negative pass and W- are subtracted, then row tiles are added: all of them, or those ``at``.
    """
    signed = held[0] - held[1] if held.shape[0] == 2 else held[0]
    signed = signed[:, :, 0] - signed[:, :, 1] if signed.shape[2] == 2 else signed[:, :, 0]
    return layout.add_tiles(signed, at)
