"""Tiled, bit-sliced products on ideal crossbars against integer arithmetic, to the bit, over configurations."""

from __future__ import annotations

import os

import integer_oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geniex.emulator import IdealEmulator
from geniex.mapping import OFFSETS, Architecture
from geniex.simulator import CrossbarMatrix, InputStatistics

EXAMPLES = int(os.environ.get("GENIEX_ARITHMETIC_EXAMPLES", "300"))


@st.composite
def architectures(draw: st.DrawFn, most_digit_bits: int = 8) -> Architecture:
    """Any allowed arithmetic, on tiles small enough to loop over."""
    choose = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    scheme = choose("differential", "offset", "twos_complement")
    offset = choose(*OFFSETS[1:]) if scheme == "twos_complement" else choose(*OFFSETS)
    slice_bits, stream_bits = draw(st.integers(1, most_digit_bits)), draw(st.integers(1, most_digit_bits))
    weight_bits = draw(st.integers(1, 16))
    slices = {
        "differential": -(-max(1, weight_bits - 1) // slice_bits),
        "offset": 2 * -(-weight_bits // slice_bits),
        "twos_complement": 1 + -(-(weight_bits - 1) // slice_bits),
    }[scheme]
    adc_bits = choose(None, 1, 2, 3, 4, 6, 9, 14)
    # A range is chosen twice as often, as only a narrow ADC's moves anything.
    ranges = ("auto", "unit", "full_scale", "calibrated", "calibrated")
    adc_range = choose("auto", "unit") if adc_bits in (None, 1) else choose(*ranges)
    return Architecture(
        tile=(draw(st.integers(1, 9)), draw(st.integers(slices + 1, slices + 9))),
        weight_bits=weight_bits,
        weight_frac_bits=choose(None, draw(st.integers(-2, 14))),
        weight_scheme=scheme,
        weight_scale=choose("power_of_two", "tensor", "channel"),
        input_bits=draw(st.integers(1, 16)),
        input_frac_bits=choose(None, draw(st.integers(-2, 14))),
        input_scheme=choose("auto", "passes", "unsigned", *["twos_complement"] * (stream_bits == 1)),
        input_scale=choose("power_of_two", "tensor"),
        slice_bits=slice_bits,
        stream_bits=stream_bits,
        adc_bits=adc_bits,
        adc_range=adc_range,
        adc_granularity=choose("layer", "tile", "column") if adc_range == "calibrated" else "layer",
        adc_rounding=choose("nearest", "floor"),
        accumulator_bits=choose(None, 5, 12, 32),
        accumulator_frac_bits=choose(None, draw(st.integers(-2, 24))),
        accumulator_overflow=choose("wrap", "saturate"),
        offset=offset,
        rounding=choose("nearest", "floor"),
    )


def numbers(*shape: int, generator: torch.Generator, grid: bool) -> Tensor:
    """Normal numbers with float32 digits, on a grid where ties are frequent."""
    x = torch.randn(*shape, generator=generator)
    return ((8 * x).round() / 8 if grid else x).double()


def levels(matrix: CrossbarMatrix) -> Tensor:
    """What is programmed (row_tiles, arrays, col_tiles, rows, cols)."""
    window = matrix.architecture.window
    return window.to_code(matrix.conductances, 2**matrix.architecture.slice_bits)


def placed(weight: Tensor, arch: Architecture) -> Tensor:
    """What the integer model would program."""
    rows = weight.tolist()
    wholes = integer_oracle.whole_weights(rows, arch, integer_oracle.weight_scale(rows, arch))
    return torch.tensor(integer_oracle.place(wholes, arch)).transpose(1, 2)


def differing_outputs(arch: Architecture, outputs: int, inputs: int, seed: int, dtype: torch.dtype) -> int:
    """Outputs of two inputs that are not the integer model's."""
    generator = torch.Generator().manual_seed(seed)
    weight = numbers(outputs, inputs, generator=generator, grid=seed % 2 == 0)
    seen = numbers(3, inputs, generator=generator, grid=seed % 2 == 0)
    if seed % 3 == 0:
        seen = seen.abs()
    # Beyond what calibration saw, with signs.
    x = torch.stack([seen[0], 2 * numbers(inputs, generator=generator, grid=seed % 2 == 0)])
    statistics = InputStatistics()
    statistics.add(seen)
    matrix = CrossbarMatrix(weight, arch, IdealEmulator(), inputs=statistics, dtype=dtype)
    assert torch.equal(levels(matrix), placed(weight, arch)), "cell by cell"
    different = 0
    results = matrix(x)
    assert torch.equal(matrix(x.clone().requires_grad_()), results), "gradients cost no exactness"
    for given_x, got in zip(x, results, strict=True):
        expected = integer_oracle.product(
            weight.tolist(),
            given_x.tolist(),
            arch,
            non_negative=bool((seen >= 0).all()),
            calibration=seen.tolist(),
            largest_input=float(seen.clamp(min=0).max() if arch.input_scheme == "unsigned" else seen.abs().max()),
        )
        different += sum(float(e) != g for e, g in zip(expected, got.tolist(), strict=True))
    return different


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(architectures(), st.integers(1, 5), st.integers(1, 20), st.integers(0, 10**6))
def test_ideal_product_is_integer_arithmetic_to_the_bit(
    arch: Architecture, outputs: int, inputs: int, seed: int
) -> None:
    assert differing_outputs(arch, outputs, inputs, seed, torch.float64) == 0


@settings(max_examples=EXAMPLES // 4)
@given(architectures(most_digit_bits=5), st.integers(1, 5), st.integers(1, 20), st.integers(0, 10**6))
def test_float32_conductances_are_as_exact(arch: Architecture, outputs: int, inputs: int, seed: int) -> None:
    assert differing_outputs(arch, outputs, inputs, seed, torch.float32) == 0
