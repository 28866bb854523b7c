"""Programmed tiles, with the shortcuts to the same counts that an emulator and an architecture allow.

Ideal and linear emulators read currents as a product, I = V @ R. Every offset scheme except "ideal_before" is linear
too, so that the analog counts of both arrays are one product, ``levels @ counts``. Where the ADC changes nothing
either, because its codes are whole counts that cannot clip or because there is no ADC, the sums over slices, streams
and tiles can be done once, at programming. The whole read is then one product of integers with ``weights``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geniex.circuit.checks import has_values
from geniex.emulator import Emulator
from geniex.mapping import Architecture, TileLayout
from geniex.simulator.periphery.accumulator import BinaryPoints, accumulate, shift_add, sum_signed
from geniex.simulator.periphery.adc import to_counts

_EXACT = 2.0**53
"""Bound up to which float64 holds all whole numbers."""


@dataclass(frozen=True)
class Programmed:
    """Programmed tiles, with shortcuts to read them; the first dimension of every tensor is the row tiles."""

    example: Tensor
    """Conductances (row_tiles, arrays, col_tiles, rows, cols) [S]; reads have their dtype and device."""
    array: Any
    """The emulator's programmed array."""
    counts: Tensor | None
    """Counts for level 1 on one word line (row_tiles, converters, col_tiles, rows, cols). None if a read is no linear
    product, or if ``weights`` replace the counts."""
    weights: Tensor | None
    """The matrix (row_tiles, rows, converters, col_tiles, outputs), float64, by which integer inputs are multiplied
    instead of a read. None if the ADC changes counts, or if sums are too large to be exact in float64."""
    lossless: bool
    """Whether the accumulator passes on the sums of ``weights`` unchanged."""
    live: tuple[bool, ...]
    """Whether each row tile needs a read: equal W+ and W- have equal currents in any circuit, and these cancel."""
    whole: bool = False
    """Whether ``counts`` are whole numbers."""


def find_shortcuts(
    conductances: Tensor,
    array: Any,
    emulator: Emulator,
    layout: TileLayout,
    *,
    codes: Tensor | None,
    step: Tensor | None,
    points: BinaryPoints,
) -> Programmed:
    """The tiles of conductances (row_tiles, arrays, col_tiles, rows, cols) [S], with the shortcuts that they allow.

    ``array`` is what the ``emulator`` made of the conductances. ``codes`` are the ideal levels, which only
    "ideal_before" needs. ``step`` is the ADC's step, and ``points`` are the binary points of the sums.
    """
    arch, response = layout.architecture, emulator.response(array)
    counts, whole = find_linear_counts(None if response is None else layout.off_lines(response), codes, arch)
    every = (True,) * layout.stack[0]
    tiles = collapse(Programmed(conductances, array, counts, None, False, every, whole), layout, step, points)
    return tiles if tiles.weights is not None else replace(tiles, live=_live(conductances, emulator, arch))


def collapse(tiles: Programmed, layout: TileLayout, step: Tensor | None, points: BinaryPoints) -> Programmed:
    """``tiles`` with ``weights`` in place of counts, if an ADC with this ``step`` changes no count."""
    arch, counts = layout.architecture, tiles.counts
    if counts is None or not _transparent(counts, tiles.whole, step, arch):
        return tiles
    weights = sum_weights(counts, layout)
    lossless = arch.accumulator_bits is None
    if tiles.whole:
        largest = bound_sum(weights, arch)
        if largest * layout.stack[0] > _EXACT:
            return tiles
        lossless = _passes_on(largest, points, arch)
    live = (True,) * layout.stack[0]
    return replace(tiles, counts=None, weights=weights, lossless=lossless, live=live)


def multiply_collapsed(integers: Tensor, tiles: Programmed, layout: TileLayout, points: BinaryPoints) -> Tensor:
    """Products (inputs, col_tiles, outputs), float64, of whole inputs (inputs, features) with ``tiles.weights``."""
    assert tiles.weights is not None
    arch, weights = layout.architecture, tiles.weights
    if tiles.lossless:
        signed = weights[:, :, 0] - weights[:, :, 1] if weights.shape[2] == 2 else weights[:, :, 0]
        return layout.multiply(layout.split_inputs(integers), signed) * 2.0**-points.exact
    parts = torch.stack([integers, -integers]).clamp(min=0) if arch.passes == 2 else integers[None]
    split = layout.split_inputs(parts)  # (passes, inputs, row_tiles, rows)
    totals = torch.einsum("pirk,rkz->pirz", split, weights.flatten(2)).unflatten(-1, weights.shape[2:])
    return sum_signed(accumulate(totals, arch, points), layout)


def _live(conductances: Tensor, emulator: Emulator, arch: Architecture) -> tuple[bool, ...]:
    # Converters with different ranges digitise the same current differently, so that W+ and W- may not cancel.
    alike = arch.offset == "analog_difference" or arch.adc_range != "calibrated" or arch.adc_granularity == "layer"
    known = has_values(conductances) and not conductances.requires_grad and emulator.deterministic
    if arch.weight_scheme != "differential" or not alike or not known:
        return (True,) * len(conductances)
    return tuple((conductances[:, 0] != conductances[:, 1]).flatten(1).any(1).tolist())


def find_linear_counts(response: Tensor | None, codes: Tensor | None, arch: Architecture) -> tuple[Tensor | None, bool]:
    """Counts (row_tiles, converters, col_tiles, rows, cols) for level 1 on one word line, and whether they are whole.

    ``response`` (row_tiles, arrays, col_tiles, rows, cols) [S] has its bit lines in natural order. The counts are None
    where the read-out is not linear.
    """
    if response is None:
        return None, False
    # One word line at a time is driven at level 1; the others are at 0.
    scheme = arch if arch.offset != "ideal_before" else arch.replace(offset="ideal_after")
    currents = response.movedim(-2, 0) * (arch.v_max / (2**arch.stream_bits - 1))
    level = torch.ones_like(currents[..., :1])
    counts = to_counts(currents, level, None, scheme).movedim(0, -2)
    whole = _whole(counts)
    if arch.offset == "ideal_before" and not (whole and codes is not None and torch.equal(counts.round(), codes)):
        return None, False
    return (counts.round(), True) if whole else (counts, False)


def _whole(counts: Tensor) -> bool:
    """Whether the counts are whole numbers up to rounding errors."""
    if not has_values(counts) or counts.requires_grad:
        return False
    noise = 64 * torch.finfo(counts.dtype).eps * float(counts.abs().amax().clamp(min=1))
    return noise < 0.1 and bool(((counts - counts.round()).abs() <= noise).all())


def _transparent(counts: Tensor, whole: bool, adc_step: Tensor | None, arch: Architecture) -> bool:
    """Whether the ADC returns all counts unchanged."""
    if arch.adc_rounding == "none":
        return True
    if not whole or adc_step is not None:
        return False
    if arch.adc_codes is None:
        return True
    top = 2**arch.stream_bits - 1
    low, high = (float(counts.clamp(**end).sum(-2).abs().amax()) * top for end in ({"max": 0}, {"min": 0}))
    return -low >= arch.adc_codes[0] and high <= arch.adc_codes[1]


def sum_weights(counts: Tensor, layout: TileLayout) -> Tensor:
    """Weights (row_tiles, rows, converters, col_tiles, outputs), float64: ``counts`` shifted and added over slices."""
    rows_as_inputs = counts.double().movedim(-2, 0)[None]
    one = rows_as_inputs.new_ones(1, 1)
    return shift_add(rows_as_inputs, one, layout)[0].movedim(0, 1)


def bound_sum(weights: Tensor, arch: Architecture) -> float:
    """The largest magnitude that a row tile's sum can have in one pass."""
    return float(weights.abs().sum(1).amax()) * max(map(abs, arch.input_range))


def _passes_on(largest: float, points: BinaryPoints, arch: Architecture) -> bool:
    """Whether the accumulator passes on sums up to ``largest`` without cutting off bits and without overflow."""
    if arch.accumulator_bits is None:
        return True
    held = largest * 2.0 ** (points.held - points.exact)
    return points.held >= points.exact and held < 2.0 ** (arch.accumulator_bits - 1)
