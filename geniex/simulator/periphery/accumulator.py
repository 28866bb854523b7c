"""Shift-and-add of counts over slices and streams, the accumulator, and the signs of its sums."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geniex.mapping import Architecture, TileLayout
from geniex.mapping.fixed_point import clip, pass_straight_through
from geniex.mapping.slicing import slice_weights


def shift_add(counts: Tensor, place: Tensor, layout: TileLayout) -> Tensor:
    """The sums (passes, inputs, row_tiles, converters, col_tiles, outputs), float64, of counts over slices and streams.

    ``counts`` are (reads, inputs, row_tiles, converters, col_tiles, cols), and ``place`` (passes, reads) are the place
    values of the reads. Bias columns that have an ADC of their own are subtracted here.
    """
    arch = layout.architecture
    # Batched products leave the row tiles first: in that order nothing large is copied.
    counts = counts.movedim(2, 0)
    slices = layout.slices_of(counts).double()
    if arch.bias_cols and arch.offset != "analog_difference":
        slices = slices - layout.bias_of(counts).double()[..., None, :]
    return torch.tensordot(place, (slices @ slice_weights(arch, slices)).movedim(0, 2), dims=1)


class BinaryPoints(NamedTuple):
    """The binary points of a matrix's sums."""

    exact: int
    """Fraction bits of the sums of whole weights times whole inputs."""
    held: int
    """Fraction bits that the accumulator keeps; not used where it is unbounded."""


def accumulate(total: Tensor, architecture: Architecture, points: BinaryPoints) -> Tensor:
    """A tile's sum ``total`` (float64, in whole numbers) as the accumulator holds it, in real units.

    The sum is scaled to the accumulator's fraction bits and cut off towards zero. It is then wrapped around with the
    sign of the dividend (PUMA's remainder) or saturated.
    """
    bits = architecture.accumulator_bits
    if bits is None:
        return total * 2.0**-points.exact
    scaled = total * 2.0 ** (points.held - points.exact)
    whole = scaled.detach().trunc()
    if architecture.accumulator_overflow == "wrap":
        held = pass_straight_through(torch.fmod(whole, 2.0**bits), scaled)
    else:
        held = clip(pass_straight_through(whole, scaled), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    return held * 2.0**-points.held


def find_overflows(total: Tensor, architecture: Architecture, points: BinaryPoints) -> Tensor:
    """Whether the accumulator wraps or saturates each sum of ``total``, in whole numbers."""
    bits = architecture.accumulator_bits
    if bits is None:
        return torch.zeros_like(total, dtype=torch.bool)
    whole = (total * 2.0 ** (points.held - points.exact)).trunc()
    if architecture.accumulator_overflow == "wrap":
        return whole.abs() >= 2.0**bits
    return (whole < -(2.0 ** (bits - 1))) | (whole > 2.0 ** (bits - 1) - 1)


def sum_signed(held: Tensor, layout: TileLayout, at: slice | None = None) -> Tensor:
    """The products (inputs, col_tiles, outputs) from the accumulators' values ``held``, in ``shift_add``'s shape.

    The negative pass and W- are subtracted, then the row tiles are added. ``held`` has the row tiles ``at``, or all.
    """
    signed = held[0] - held[1] if held.shape[0] == 2 else held[0]
    signed = signed[:, :, 0] - signed[:, :, 1] if signed.shape[2] == 2 else signed[:, :, 0]
    return layout.add_tiles(signed, at)
