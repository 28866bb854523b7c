"""Random models on ideal tiles: each layer is the product of its rounded numbers, or a warning names what went wrong.

A layer's rounded weights and inputs come from its binary points and gains alone; torch's own layer multiplies them.
"""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from geniex import Architecture, IdealEmulator, convert
from geniex.errors import ConversionWarning, GeniexError
from geniex.mapping import OFFSETS
from geniex.simulator import CrossbarLayer, CrossbarMatrix, find_crossbar_layers

EXAMPLES = int(os.environ.get("GENIEX_SILENT_EXAMPLES", "300"))


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Any arithmetic whose ADC has room; fixed binary points and narrow accumulators may not fit."""
    choose = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    scheme, stream_bits = choose("differential", "offset", "twos_complement"), draw(st.integers(1, 6))
    bits = choose(None, None, draw(st.integers(8, 48)))
    return Architecture(
        tile=(choose(8, 32, 64), choose(40, 64)),
        weight_bits=draw(st.integers(2, 16)),
        weight_frac_bits=choose(None, None, None, draw(st.integers(-12, 18))),
        weight_scheme=scheme,
        weight_scale=choose("power_of_two", "tensor", "channel"),
        input_bits=draw(st.integers(2, 16)),
        input_frac_bits=choose(None, None, None, draw(st.integers(-12, 18))),
        input_scheme=choose("auto", "passes", "unsigned", *["twos_complement"] * (stream_bits == 1)),
        input_scale=choose("power_of_two", "tensor"),
        input_calibration="max",
        slice_bits=draw(st.integers(1, 6)),
        stream_bits=stream_bits,
        adc_bits=choose(None, 14, 20, 30),
        accumulator_bits=bits,
        accumulator_frac_bits=choose(None, 24, draw(st.integers(-4, 30))),
        accumulator_overflow=choose("wrap", "saturate"),
        offset=choose(*OFFSETS[1:]) if scheme == "twos_complement" else choose(*OFFSETS),
        rounding=choose("nearest", "floor"),
    )


@st.composite
def models(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A small network and inputs for it, at any scale of numbers."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    exponents = st.floats(-3, 4)
    kind, signed = draw(st.sampled_from(["linear", "mlp", "conv", "grouped", "transposed"])), draw(st.booleans())
    if kind in ("linear", "mlp"):
        layers = [nn.Linear(draw(st.integers(1, 90)), draw(st.integers(1, 20)))]
        shape: tuple[int, ...] = (9, layers[0].in_features)
        if kind == "mlp":
            layers.append(nn.Linear(layers[0].out_features, draw(st.integers(1, 9))))
    else:
        groups = 2 if kind == "grouped" else 1
        make: Any = nn.ConvTranspose2d if kind == "transposed" else nn.Conv2d
        layers = [make(4, draw(st.sampled_from([2, 6])), 2, stride=draw(st.integers(1, 2)), groups=groups)]
        shape = (2, 4, 4, 4)
    with torch.no_grad():
        for layer in layers:
            layer.weight *= 10 ** draw(exponents) / layer.weight.abs().max()
            layer.bias *= 10 ** draw(exponents)
    x = torch.randn(shape) if signed else torch.rand(shape)
    parts = [layers[0], *(part for layer in layers[1:] for part in (nn.ReLU(), layer))]
    return nn.Sequential(*parts).double(), x.double() * 10 ** draw(exponents)


def rounded_weight(layer: CrossbarLayer, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's weight (groups, outputs, inputs) in fixed point, and its last bits, of the same shape."""
    blocks, bits = layer.packing.blocks(weight), []
    out = []
    for block, matrix in zip(blocks, layer.matrices, strict=True):
        assert isinstance(matrix, CrossbarMatrix)
        gain = 1.0 if matrix.weight_gain is None else matrix.weight_gain.double().reshape(-1, 1)
        last_bit = torch.ones_like(block) * 2.0**-matrix.weight_frac_bits * gain
        out.append(fixed_point(block, last_bit, matrix.architecture.weight_range, matrix.architecture))
        bits.append(last_bit)
    return layer.packing.unblock(out), layer.packing.unblock(bits)


def fixed_point(x: Tensor, last_bit: Tensor | float, ends: tuple[int, int], arch: Architecture) -> Tensor:
    """``x`` in whole last bits, as a magnitude where the range is symmetric."""
    exact = x / last_bit
    if arch.rounding == "nearest":
        whole = exact.round()
    else:
        whole = exact.trunc() if ends[0] == -ends[1] else exact.floor()
    return whole.clamp(*ends) * last_bit


def rounded_inputs(layer: CrossbarLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's inputs in fixed point, and their last bits; groups on arrays of their own have their own scales."""
    channels = x.movedim(1, -1)
    parts, bits = [], []
    for matrix, part in zip(layer.matrices, channels.split(channels.shape[-1] // len(layer.matrices), -1), strict=True):
        assert isinstance(matrix, CrossbarMatrix)
        arch, gain = matrix.architecture, 1.0 if matrix.input_gain is None else matrix.input_gain.double()
        low, high = arch.input_range
        last_bit = torch.ones_like(part) * 2.0**-matrix.input_frac_bits * gain
        parts.append(fixed_point(part, last_bit, (low, high), arch))
        if matrix.non_negative:
            parts[-1] = parts[-1].clamp(min=0)
        bits.append(last_bit)
    return torch.cat(parts, -1).movedim(-1, 1), torch.cat(bits, -1).movedim(-1, 1)


def expected(torch_layer: nn.Module, layer: CrossbarLayer, rounded: Tensor) -> tuple[Tensor, float]:
    """torch's output for the rounded numbers, and what a sum's size is in the worst case."""
    exact = copy.deepcopy(torch_layer)
    weight, _ = rounded_weight(layer, type(layer).weight_of(torch_layer))
    with torch.no_grad():
        exact.weight.copy_(type(layer).weight_to(torch_layer, weight))
        return exact(rounded), float(weight.abs().sum(-1).max() * rounded.abs().max())


def is_told(told: str, name: str, *words: str) -> bool:
    return any(f"layer {name!r}: " in line and any(w in line for w in words) for line in told.splitlines())


@pytest.mark.slow
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(models(), architectures())
def test_no_layer_is_wrong_without_a_word(made: tuple[nn.Module, Tensor], arch: Architecture) -> None:
    model, x = made
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            converted = convert(model, arch, IdealEmulator(), calibration=x)
        except GeniexError:
            return  # said plainly
    told = str(converted.conversion)
    assert bool(caught) == bool(converted.conversion.cautions)  # type: ignore[union-attr]
    assert all(issubclass(w.category, ConversionWarning) for w in caught)
    calls: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in find_crossbar_layers(converted).items():
        layer.register_forward_hook(lambda _, args, out, name=name: calls.__setitem__(name, (args[0], out)))
    with torch.no_grad():
        converted(x)
    assume(calls)
    for name, layer in find_crossbar_layers(converted).items():
        check_layer(name, model.get_submodule(name), layer, *calls[name], told)


def check_layer(
    name: str, torch_layer: nn.Module, layer: CrossbarLayer, given_x: Tensor, found: Tensor, told: str
) -> None:
    matrix = layer.matrices[0]
    assert isinstance(matrix, CrossbarMatrix)
    arch = matrix.architecture
    rounded, last = rounded_inputs(layer, given_x)
    wanted, size = expected(torch_layer, layer, rounded)
    allowed = 1e-6 * size + 1e-9 * float(wanted.abs().max()) + cut_off(layer)
    wide = all(m.adc_step is None for m in layer.matrices)
    off = (found - wanted).abs().max()
    if wide and off > allowed:
        assert is_told(told, name, "accumulator", "ADC conversions"), f"off by {off:g} of {size:g}"
    # Rounding alone moves a number by no more than its last bit; what is moved farther has clipped.
    weight = type(layer).weight_of(torch_layer)
    kept, last_bit = rounded_weight(layer, weight)
    if ((kept - weight).abs() > last_bit * 1.001).double().mean() > 1e-3:
        assert is_told(told, name, "weights lie beyond"), "weights clip"
    if arch.weight_frac_bits is None:
        assert last_bit.max() <= 2.0001 * weight.abs().max() / max(arch.weight_range[1], 1)
    if name != "0":  # calibration saw what the layer before gives before it is rounded
        return
    if ((rounded - given_x).abs() > last * 1.001).double().mean() > 0.02:
        assert is_told(told, name, "inputs lie beyond"), "inputs clip"
    # Where nothing was fixed by hand, the last bit is as fine as the width allows.
    if arch.input_frac_bits is None and arch.input_scheme != "unsigned":
        assert last.max() <= 2.0001 * given_x.abs().max() / max(arch.input_range[1], 1)


def cut_off(layer: CrossbarLayer) -> float:
    """What finite accumulators cut off at most: a last bit of each pass, array and row tile."""
    matrix = layer.matrices[0]
    assert isinstance(matrix, CrossbarMatrix)
    if matrix.architecture.accumulator_bits is None:
        return 0.0
    gains = [1.0 if m.weight_gain is None else float(m.weight_gain.max()) for m in layer.matrices]
    gains = [
        g * (1.0 if m.input_gain is None else float(m.input_gain)) for g, m in zip(gains, layer.matrices, strict=True)
    ]
    return 4 * matrix.layout.row_tiles * max(gains) * 2.0 ** -min(m.points.held for m in layer.matrices)
