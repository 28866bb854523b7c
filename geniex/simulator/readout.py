"""From column currents to ADC counts: the offset schemes of ``Architecture.offset`` and the ADC."""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit import shared_matmul
from geniex.mapping import Architecture
from geniex.mapping.fixed_point import straight_through


def stream_voltages(levels: Tensor, architecture: Architecture) -> Tensor:
    """The DAC: driver voltages [V] of stream ``levels``, V = level * v_max / (2^stream_bits - 1)."""
    return levels * (architecture.v_max / (2**architecture.stream_bits - 1))


def adc_counts(currents: Tensor, levels: Tensor, codes: Tensor | None, architecture: Architecture) -> Tensor:
    """ADC counts (..., arrays, col_tiles, cols) of currents (..., 2, col_tiles, cols) [A].

    ``arrays`` is 1 where the two arrays share one signed ADC, else 2. ``levels`` (..., 1, 1, rows) are the stream
    levels that were applied, ``codes`` (..., 2, col_tiles, rows, cols) the ideal levels, which "ideal_before" alone
    needs. One count is the product of one level step of conductance and one of voltage.
    """
    scale = architecture.current_scale
    if architecture.offset == "analog_difference":
        difference = (currents[..., :1, :, :] - currents[..., 1:, :, :]) * scale
        return _adc(difference, architecture.adc_bits, signed=True)
    if architecture.offset == "reference_column":
        counts = (currents - currents[..., -1:]) * scale
    else:
        # What level 0 adds to every column, as the ideal circuit would have it, in counts.
        background = stream_voltages(levels, architecture).sum(-1, keepdim=True)
        background = background * (architecture.window.g_off * scale)
        if architecture.offset == "ideal_after":
            counts = currents * scale - background
        else:
            assert codes is not None
            product = shared_matmul(levels, codes)
            ideal = product + background
            # No drive, no current: the ratio 1 / f_R is then of no consequence.
            counts = product * (currents * scale) / torch.where(ideal == 0, torch.ones_like(ideal), ideal)
    return _adc(counts, architecture.adc_bits, signed=False)


def _adc(counts: Tensor, bits: int | None, *, signed: bool) -> Tensor:
    rounded = straight_through(torch.round(counts.detach()), counts)
    if bits is None:
        return rounded
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return rounded.clamp(low, high)
