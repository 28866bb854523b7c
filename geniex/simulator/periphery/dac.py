"""The way from inputs to the levels that drive the word lines in each read."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geniex.circuit.checks import has_values
from geniex.mapping import Architecture
from geniex.mapping.fixed_point import clip, to_input_integers
from geniex.mapping.slicing import stream_weights, to_stream_levels


def quantise_inputs(
    x: Tensor, architecture: Architecture, frac_bits: int, gain: Tensor | None, *, non_negative: bool
) -> Tensor:
    """The integers, float64, that stand for ``x`` in fixed point; ``non_negative`` inputs are clipped at 0.

    Infinities clip as the largest inputs do. NaN becomes 0 here: callers set the outputs that it reaches to NaN.
    """
    x = torch.nan_to_num(x, nan=0.0, posinf=math.inf, neginf=-math.inf)
    if non_negative:
        x = clip(x, 0.0)
    return to_input_integers(x if gain is None else x.double() / gain, architecture, frac_bits)


def split_into_reads(
    integers: Tensor, architecture: Architecture, *, non_negative: bool, all_streams: bool = False
) -> tuple[Tensor, Tensor]:
    """The levels (reads, inputs, features), float64, that stream ``integers`` (inputs, features).

    The second tensor is the place values (passes, reads). Inputs known to be ``non_negative`` need no negative pass and
    no sign stream. On the CPU, where looking at values is free, a batch without negative values needs neither, and
    streams of zeros are left out unless ``all_streams`` is set.
    """
    eager = integers.device.type == "cpu" and has_values(integers)
    unsigned = non_negative or (eager and not (integers < 0).any())
    passes = 1 if unsigned else architecture.passes
    digits = to_stream_levels(integers, architecture, passes=passes)
    weights = stream_weights(architecture, digits)
    if unsigned and architecture.streaming == "twos_complement" and architecture.streams > 1:
        digits, weights = digits[:, 1:], weights[1:]
    place = torch.block_diag(*[weights] * passes).reshape(passes, -1)
    levels = digits.flatten(0, 1)
    if eager and not integers.requires_grad and not all_streams:
        # A stream that is zero everywhere drives no current and is not read.
        used = levels.flatten(1).any(-1)
        used[0] |= not used.any()  # solvers and products take no empty batch
        if not used.all():
            levels, place = levels[used], place[:, used]
    return levels, place
