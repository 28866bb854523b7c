"""The way from column currents to ADC codes: the offset schemes of ``Architecture.offset`` and the ADC.

``to_counts`` turns currents into analog counts, and ``digitise`` turns these into the counts that the ADC returns.
``choose_full_scale_step`` and ``choose_step`` choose the ADC's step, in counts per code. One count is the current of
one level step of conductance at one level step of voltage; the counts of an ideal crossbar are whole numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geniex.circuit import shared_matmul
from geniex.mapping import Architecture
from geniex.mapping.fixed_point import clip, pass_straight_through

_STEP_BITS = 8
"""Significant bits of an ADC step."""


def to_voltages(levels: Tensor, architecture: Architecture) -> Tensor:
    """The DAC's driver voltages [V] for stream ``levels``: V = level * v_max / (2^stream_bits - 1)."""
    return levels * (architecture.v_max / (2**architecture.stream_bits - 1))


def to_counts(currents: Tensor, levels: Tensor, codes: Tensor | None, architecture: Architecture) -> Tensor:
    """Counts (..., converters, col_tiles, cols) of currents (..., arrays, col_tiles, cols) [A], not yet rounded.

    ``converters`` is 1 where two arrays share one signed ADC, else ``arrays``. ``levels`` (..., 1, 1, rows) are the
    stream levels that were applied. ``codes`` (..., arrays, col_tiles, rows, cols) are the ideal levels, which only
    "ideal_before" needs.
    """
    scale = architecture.current_scale
    if architecture.offset == "analog_difference":
        return _difference(currents, architecture) * scale
    if architecture.offset == "reference_column":
        return (currents - currents[..., -1:]) * scale
    # The counts that level 0 adds to every column in the ideal circuit.
    background = to_voltages(levels, architecture).sum(-1, keepdim=True)
    background = background * (architecture.window.g_off * scale)
    if architecture.offset == "ideal_after":
        return currents * scale - background
    assert codes is not None
    product = shared_matmul(levels, codes)
    ideal = product + background
    # Without drive no current flows. The ratio 1 / f_R then has no effect, and gradients take it as 1.
    at_rest = ideal == 0
    return torch.where(at_rest, product, product * (currents * scale) / torch.where(at_rest, 1.0, ideal))


def digitise(counts: Tensor, step: Tensor | float | None, architecture: Architecture) -> Tensor:
    """The counts that the ADC returns for analog ``counts``: its codes times their ``step``.

    ``step`` broadcasts with the counts; None is 1. The result is float64 where a step is given.
    """
    if architecture.adc_rounding == "none":
        return counts
    codes = round_to_codes(counts, step, architecture)
    if architecture.adc_codes is not None:
        codes = clip(codes, *architecture.adc_codes)
    return codes if step is None else codes * step


def round_to_codes(counts: Tensor, step: Tensor | float | None, architecture: Architecture) -> Tensor:
    """The codes of analog ``counts`` on an ADC without a lowest and a highest code."""
    if step is not None or architecture.adc_rounding == "floor":
        counts = snap(counts, architecture)
    # Division is exact in float64 wherever a count lies on a code or half-way between two, so that ties stay ties.
    exact = counts if step is None else counts.double() / step
    rounded = exact.detach().floor() if architecture.adc_rounding == "floor" else exact.detach().round()
    return pass_straight_through(rounded, exact)


def snap(counts: Tensor, architecture: Architecture) -> Tensor:
    """``counts``, rounded where they differ from whole numbers by floating-point noise only."""
    # The counts of a bit line whose cells are all at G_on, at full drive; level 0's share is included.
    full = architecture.tile[0] * architecture.v_max * architecture.window.g_on * architecture.current_scale
    noise = min(0.25, 4 * torch.finfo(counts.dtype).eps * full)
    whole = counts.detach().round()
    return torch.where((counts.detach() - whole).abs() <= noise, pass_straight_through(whole, counts), counts)


def choose_full_scale_step(architecture: Architecture) -> float:
    """The counts per code at which the codes span the largest ideal count."""
    assert architecture.adc_codes is not None
    return _rounded_up(architecture.largest_count / architecture.adc_codes[1])


def choose_step(low: Tensor, high: Tensor, architecture: Architecture) -> Tensor:
    """The counts per code at which the codes span ``low`` .. ``high`` (row_tiles, converters, col_tiles, cols).

    The result has the same shape, with size 1 in each dimension that shares a range.
    """
    assert architecture.adc_codes is not None
    lowest, highest = architecture.adc_codes
    needed = snap(high, architecture).double() / highest
    if lowest < 0:
        needed = torch.maximum(needed, snap(low, architecture).double() / lowest)
    if architecture.adc_granularity != "column":
        shared = (-1,) if architecture.adc_granularity == "tile" else (0, 1, 2, 3)
        needed = needed.amax(shared, keepdim=True)
    steps = [_rounded_up(step) for step in needed.flatten().tolist()]
    return torch.tensor(steps, device=needed.device).reshape(needed.shape)


def _difference(currents: Tensor, architecture: Architecture) -> Tensor:
    """Currents (..., 1, col_tiles, cols) of W+ less those of W-, or of data columns less their slice's bias column."""
    if architecture.weight_scheme == "differential":
        return currents[..., :1, :, :] - currents[..., 1:, :, :]
    start, slices = architecture.data_cols, architecture.slices
    bias = currents[..., start : start + slices]
    data = currents[..., : architecture.outputs_per_tile * slices].unflatten(-1, (-1, slices))
    return (data - bias[..., None, :]).flatten(-2)


def _rounded_up(step: float) -> float:
    """``step`` rounded up to few significant bits, and at least 1: sums of codes are then exact in float64."""
    mantissa, exponent = math.frexp(max(step, 1.0))
    return math.ldexp(math.ceil(mantissa * 2**_STEP_BITS), exponent - _STEP_BITS)
