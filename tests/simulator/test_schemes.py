"""Schemes of signs, offsets and ADC ranges on real circuits, and what they mean by hand."""

from __future__ import annotations

from typing import Any

import integer_oracle
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, IdealEmulator, LinearEmulator
from geniex.errors import InputError
from geniex.mapping import OFFSETS, Architecture
from geniex.simulator import CrossbarMatrix, InputStatistics
from geniex.workspace import workspace_limit

SCHEMES = [
    (weights, offset)
    for weights in ("differential", "offset", "twos_complement")
    for offset in OFFSETS
    if (weights, offset) != ("twos_complement", "analog_difference")
]


def seen(x: Tensor) -> InputStatistics:
    statistics = InputStatistics()
    statistics.add(x)
    return statistics


@pytest.mark.parametrize(("weights", "offset"), SCHEMES)
def test_circuit_in_the_loop_equals_tile_by_tile_solves(weights: str, offset: str) -> None:
    """Inputs of one digit on the oracle's own placement, read by the exact circuit one array at a time."""
    crossbar = Crossbar(5, 9, r_wire=20.0, r_source=300.0)
    arch = Architecture(
        tile=(5, 9), weight_bits=4, weight_frac_bits=0, weight_scheme=weights, input_bits=3, input_frac_bits=0,
        input_scheme="unsigned", slice_bits=2, stream_bits=3, adc_bits=None, accumulator_bits=None, offset=offset,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-7, 8, (5, 8), generator=generator).double()
    x = torch.randint(0, 8, (3, 8), generator=generator).double()
    matrix = CrossbarMatrix(weight, arch, CircuitEmulator(crossbar))
    levels = torch.tensor(integer_oracle.place(weight.long().tolist(), arch)).double().transpose(1, 2)
    step_g, step_v = arch.window.step(4), arch.v_max / 7
    assert torch.allclose(matrix.conductances, arch.window.g_off + levels * step_g, rtol=1e-12)
    places = torch.tensor(integer_oracle.slice_places(arch)).double()
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for r in range(2):
        volts = torch.nn.functional.pad(x[:, 5 * r : 5 * r + 5], (0, 2 * r)) * step_v
        for c in range(levels.shape[2]):
            counts = read_out(crossbar, volts, levels[r, :, c], arch) / 1.0
            outputs = counts.unflatten(-1, (-1, len(places))) @ places
            first = c * outputs.shape[1]
            expected[:, first : first + outputs.shape[1]] += outputs[:, : 5 - first]
    assert torch.equal(matrix(x), expected)
    assert not torch.equal(expected, x @ weight.T), "the wires must be felt, or this test says nothing"


def read_out(crossbar: Crossbar, volts: Tensor, levels: Tensor, arch: Architecture) -> Tensor:
    """Whole counts (vectors, data columns) of one tile's arrays, W- or the bias columns taken off."""
    step_g, g_off = arch.window.step(4), arch.window.g_off
    count = step_g * arch.v_max / 7
    slices = len(integer_oracle.slice_places(arch))
    data = integer_oracle.outputs_per_tile(arch) * slices
    bias = slice(integer_oracle.data_cols(arch), integer_oracle.data_cols(arch) + slices)
    background = g_off * volts.sum(-1, keepdim=True)
    arrays = []
    for grid in levels:
        measured = crossbar.solve(volts, g_off + grid * step_g)
        ideal = volts @ (g_off + grid * step_g)
        removed = {
            "analog_difference": measured,
            "reference_column": measured - measured[:, -1:],
            "ideal_before": (ideal - background) * measured / ideal,
            "ideal_after": measured - background,
        }[arch.offset]
        arrays.append(removed / count if arch.offset == "analog_difference" else (removed / count).round().clamp(min=0))
    if arch.weight_scheme == "differential":
        return (arrays[0] - arrays[1])[:, :data].round()
    if arch.weight_scheme == "twos_complement":
        return arrays[0][:, :data]
    return (arrays[0][:, :data] - arrays[0][:, bias].repeat(1, data // slices)).round()


@pytest.mark.parametrize(
    ("options", "weights", "inputs"),
    [
        ({"weight_scheme": "differential", "input_scheme": "passes"}, [-1, 1, 1], [-1, 1, 1]),
        ({"weight_scheme": "offset", "input_scheme": "unsigned"}, [-1, 0, 0], [0, 0, 1]),
        ({"weight_scheme": "twos_complement", "input_scheme": "twos_complement"}, [-1, 0, 0], [-1, 0, 0]),
    ],
)
def test_what_one_bit_means(options: dict[str, Any], weights: list[int], inputs: list[int]) -> None:
    """The integers that -0.8, 0 and 0.7 become, read by a weight or an input of one unit."""
    given = torch.tensor([-0.8, 0.0, 0.7]).double()
    arch = Architecture(
        tile=(4, 9), weight_frac_bits=0, input_frac_bits=0, stream_bits=1, offset="reference_column", **options
    )
    one = torch.ones(1, 1).double()
    narrow = CrossbarMatrix(given[:, None], arch.replace(weight_bits=1, input_bits=4), IdealEmulator())
    assert narrow(one[0]).tolist() == weights
    matrix = CrossbarMatrix(one, arch.replace(weight_bits=4, input_bits=1), IdealEmulator())
    assert matrix(given[:, None])[:, 0].tolist() == inputs


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("stream_bits", [1, 3])
def test_one_pass_gives_what_signed_arithmetic_gives(offset: str, stream_bits: int) -> None:
    """On real wires: for inputs of at least 0 bit for bit; those below 0 clip to 0."""
    arch = Architecture(tile=(8, 12), stream_bits=stream_bits, input_frac_bits=12, offset=offset, input_bits=14)
    emulator, weight = LinearEmulator(Crossbar(8, 12, r_wire=20.0)), torch.randn(5, 20).double()
    x = torch.rand(6, 20).double()
    signed, one_pass = (CrossbarMatrix(weight, arch, emulator, inputs=inputs) for inputs in (2.0, seen(x)))
    assert torch.equal(one_pass(x), signed(x))
    assert torch.equal(one_pass(-x), torch.zeros(6, 5).double())
    assert not torch.equal(signed(-x), torch.zeros(6, 5).double())


@pytest.mark.parametrize(("stream_bits", "signed_reads", "reads"), [(1, 8, 7), (4, 4, 2)])
def test_one_pass_needs_no_look_at_values(stream_bits: int, signed_reads: int, reads: int) -> None:
    arch = Architecture.puma(tile=(16, 16), stream_bits=stream_bits, input_bits=8)
    vectors = torch.rand(4, 20)
    for statistics, expected in ((seen(vectors), reads), (seen(vectors - 0.5), signed_reads)):
        with FakeTensorMode(), torch.device("cuda"):
            matrix = CrossbarMatrix(torch.empty(3, 20), arch, IdealEmulator(), inputs=statistics)
            assert len(matrix.reads(torch.empty(5, 20)).voltages) == expected
            assert matrix(torch.empty(5, 20)).shape == (5, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "offset"), SCHEMES)
@pytest.mark.parametrize("adc_range", ["unit", "full_scale", "calibrated"])
def test_forward_keeps_to_one_device_under_fake_cuda(weights: str, offset: str, adc_range: str) -> None:
    arch = Architecture(
        tile=(16, 32), weight_bits=8, weight_frac_bits=7, weight_scheme=weights, weight_scale="channel", input_bits=8,
        input_scale="tensor", offset=offset, adc_bits=8, adc_range=adc_range, accumulator_overflow="saturate",
    )  # fmt: skip
    statistics = seen(torch.rand(4, 20))
    with FakeTensorMode(), torch.device("cuda"):
        matrix = CrossbarMatrix(torch.empty(6, 20), arch, LinearEmulator(Crossbar(16, 32)), inputs=statistics)
        out = matrix(torch.empty(3, 20))
    assert (out.shape, out.device.type, out.dtype) == ((3, 6), "cuda", torch.float32)


def test_an_unrounded_count_is_the_linear_circuit_itself() -> None:
    """Without an ADC a read is one product with the transfer matrix, so that it may be collapsed into it."""
    arch = Architecture(
        tile=(8, 12), input_bits=8, adc_bits=None, adc_rounding="none", accumulator_bits=None, input_frac_bits=7
    )
    weight, x = torch.randn(5, 14).double(), torch.randint(-127, 128, (6, 14)).double() / 128
    matrix = CrossbarMatrix(weight, arch, LinearEmulator(Crossbar(8, 12, r_wire=30.0)))
    effective = matrix.array.effective[:, 0] - matrix.array.effective[:, 1]
    slices = matrix.layout.slices_of(effective.movedim(-2, 0)).movedim(0, 1).flatten(0, 1)  # (rows, col_tiles, ...)
    columns = (slices @ (16.0 ** torch.arange(3, -1, -1).double())).flatten(1)[:14, :5]
    scale = arch.current_scale * arch.v_max / 15 * 2.0**-matrix.weight_frac_bits
    assert torch.allclose(matrix(x), x @ columns * scale, rtol=1e-10)
    rounded = CrossbarMatrix(weight, arch.replace(adc_rounding="nearest"), matrix.emulator)
    assert not torch.allclose(rounded(x), matrix(x), rtol=1e-6)


def test_a_calibrated_range_holds_what_calibration_saw_and_clips_beyond() -> None:
    arch = Architecture(
        tile=(16, 16), weight_bits=5, input_bits=5, input_frac_bits=2, adc_bits=12, adc_range="calibrated",
        offset="ideal_before",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 16, generator=generator).double()
    x = torch.rand(8, 16, generator=generator).double()
    exact = CrossbarMatrix(weight, arch.replace(adc_bits=None, adc_range="unit"), IdealEmulator())
    matrix = CrossbarMatrix(weight, arch, IdealEmulator(), inputs=seen(x))
    assert torch.equal(matrix(x), exact(x)), "12 bits are enough for one count a code"
    coarse = CrossbarMatrix(weight, arch.replace(adc_bits=3), IdealEmulator(), inputs=seen(x))
    assert (coarse(x) - exact(x)).abs().max() < 0.2 * exact(x).abs().max()
    beyond, expected = coarse(3 * x), exact(3 * x)
    assert (beyond - expected).abs().max() > 0.4 * expected.abs().max()


def test_finer_ranges_quantise_finer() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 64, generator=generator).double() * torch.logspace(-2, 0, 12).double()[:, None]
    x = torch.rand(40, 64, generator=generator).double()
    arch = Architecture(tile=(32, 16), weight_bits=8, input_bits=8, input_frac_bits=7, adc_bits=6)
    exact = CrossbarMatrix(weight, arch.replace(adc_bits=None), IdealEmulator())(x)
    errors = [
        float((CrossbarMatrix(weight, changed, IdealEmulator(), inputs=seen(x))(x) - exact).square().mean())
        for changed in (
            arch.replace(adc_range="full_scale"),
            *(arch.replace(adc_range="calibrated", adc_granularity=g) for g in ("layer", "tile", "column")),
        )
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.5 * errors[1]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("granularity", ["layer", "tile", "column"])
def test_chunks_do_not_change_ranges_or_results(granularity: str) -> None:
    arch = Architecture(
        tile=(8, 8), input_frac_bits=12, adc_bits=5, adc_range="calibrated", adc_granularity=granularity
    )  # fmt: skip
    weight, x = torch.randn(4, 30).double() * torch.linspace(0.1, 1, 30).double(), torch.randn(9, 30).double()
    whole = CrossbarMatrix(weight, arch, IdealEmulator(), inputs=seen(x))
    expected = whole(x)
    with workspace_limit(1):
        assert torch.equal(whole(x), expected)
        assert torch.equal(CrossbarMatrix(weight, arch, IdealEmulator(), inputs=seen(x)).adc_step, whole.adc_step)


def test_adc_calibration_follows_the_emulator_and_can_be_repeated() -> None:
    arch = Architecture(tile=(16, 16), input_frac_bits=12, adc_bits=8, adc_range="calibrated")
    weight, x = torch.randn(4, 20).double(), torch.rand(8, 20).double()
    lossy = LinearEmulator(Crossbar(16, 16, r_source=20e3))
    ideal, real = (CrossbarMatrix(weight, arch, e, inputs=seen(x)) for e in (IdealEmulator(), lossy))
    assert 1 <= real.adc_step.item() < 0.7 * ideal.adc_step.item()
    before, step = ideal(x), ideal.adc_step.clone()
    ideal.program(arch.window.g_off + 0.5 * (ideal.conductances - arch.window.g_off))
    assert torch.equal(ideal.adc_step, step)
    ideal.calibrate_adc(x)
    assert torch.allclose(ideal.adc_step, step / 2, rtol=2**-6)
    assert torch.allclose(2 * ideal(x), before, atol=float(before.abs().max()) / 50)


@pytest.mark.parametrize(
    "options",
    [
        {"weight_scale": "channel", "input_scale": "tensor"},
        {"weight_scale": "tensor", "adc_range": "calibrated", "adc_granularity": "column", "adc_bits": 7},
        {"weight_scheme": "offset", "offset": "reference_column", "adc_range": "full_scale", "adc_bits": 5},
    ],
)
def test_saved_state_carries_scales_and_ranges(options: dict[str, Any]) -> None:
    arch, emulator = Architecture(tile=(16, 16), weight_bits=8, input_bits=8, **options), IdealEmulator()
    weight, x = torch.randn(4, 20), torch.rand(8, 20)
    saved = CrossbarMatrix(weight, arch, emulator, inputs=seen(x))
    other = CrossbarMatrix(5 * torch.randn(4, 20), arch, emulator, inputs=seen(3 * x - 1))
    assert not torch.equal(other(x), saved(x))
    other.load_state_dict(saved.state_dict())
    assert torch.equal(other(x), saved(x))
    assert torch.equal(other.half().double().float()(x), saved(x)), "scales and steps survive a cast"


BASE = Architecture(tile=(32, 32), weight_bits=8, input_bits=8)
LINEAR = LinearEmulator(Crossbar(32, 32, r_wire=20.0))


@pytest.mark.parametrize(
    ("base", "knob", "value"),
    [
        ({}, "weight_scheme", "offset"),
        ({"offset": "reference_column"}, "weight_scheme", "twos_complement"),
        ({}, "weight_scale", "tensor"),
        ({"weight_scale": "tensor"}, "weight_scale", "channel"),
        ({}, "input_scheme", "unsigned"),
        ({"stream_bits": 1}, "input_scheme", "passes"),
        ({}, "input_scale", "tensor"),
        ({}, "input_calibration", "percentile"),
        ({"input_calibration": "percentile"}, "input_percentile", 50.0),
        ({"input_bits": 4, "input_scale": "tensor"}, "input_calibration", "mse"),
        ({"adc_bits": 6}, "adc_range", "unit"),
        ({"adc_bits": 6}, "adc_range", "full_scale"),
        ({"adc_bits": 6, "adc_range": "unit"}, "adc_range", "calibrated"),
        ({"adc_bits": 6, "adc_range": "calibrated"}, "adc_granularity", "tile"),
        ({"adc_bits": 6, "adc_range": "calibrated"}, "adc_granularity", "column"),
        ({}, "adc_rounding", "floor"),
        ({"adc_bits": None, "accumulator_bits": None}, "adc_rounding", "none"),
        ({"accumulator_bits": 20, "accumulator_frac_bits": 24}, "accumulator_overflow", "saturate"),
    ],
)
def test_every_knob_moves_the_output(base: dict[str, Any], knob: str, value: object) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, 40, generator=generator).double() for n in (8, 20))
    was, now = (
        CrossbarMatrix(weight, arch, LINEAR, inputs=seen(x))(x)
        for arch in (BASE.replace(**base), BASE.replace(**(base | {knob: value})))
    )
    assert not torch.equal(was, now)


@pytest.mark.parametrize(("weights", "offset"), SCHEMES)
def test_gradients_follow_the_weights_in_every_scheme(weights: str, offset: str) -> None:
    """Also for inputs of 0, and where the highest streams are 0; none where an input clips."""
    arch = Architecture(
        tile=(8, 24), weight_scheme=weights, offset=offset, input_frac_bits=12, adc_bits=12, adc_range="full_scale",
        weight_scale="channel", input_scale="tensor",
    )  # fmt: skip
    weight, x = torch.randn(3, 10).double(), torch.randn(10).double()
    x[[1, 4, 5]] = 0.0
    for inputs in 20.0, seen(x[None]), seen(x[None].clamp(min=0)):
        matrix = CrossbarMatrix(weight, arch, IdealEmulator(), inputs=inputs)
        jacobian = torch.autograd.functional.jacobian(matrix, x)
        expected = torch.where(x < 0, 0.0, weight) if matrix.non_negative else weight
        assert torch.allclose(jacobian, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_scheme": "twos_complement"}, r"offset: got 'analog_difference'; two's complement.*reference_column"),
        ({"input_scheme": "twos_complement"}, r"input_scheme: .*stream_bits is 4: use passes"),
        ({"weight_scheme": "sign"}, r"weight_scheme: got 'sign'; .*differential, offset, twos_complement"),
        ({"weight_scheme": "offset", "tile": (4, 7)}, r"tile: .*4 slices.*beside 4 bias columns"),
        ({"adc_rounding": "none"}, r"adc_rounding: .*adc_bits and accumulator_bits to None"),
        ({"adc_bits": None, "adc_range": "full_scale"}, r"adc_bits: got None; adc_range='full_scale' needs"),
        ({"adc_bits": 1, "adc_range": "calibrated"}, r"adc_bits: got 1; .*at least 2"),
        ({"adc_granularity": "column"}, r"adc_granularity: .*needs adc_range='calibrated'"),
        ({"input_percentile": 99.0}, r"input_percentile: .*needs input_calibration='percentile'"),
        ({"input_calibration": "percentile", "input_percentile": 101.0}, r"input_percentile: .*at most 100"),
        ({"input_calibration": "mse", "input_frac_bits": 4}, r"input_calibration: .*input_frac_bits fixes"),
        ({"weight_bits": 0}, r"weight_bits: got 0; .*at least 1"),
    ],
)
def test_what_does_not_combine_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Architecture(**options)


def test_missing_statistics_are_named() -> None:
    weight, ideal = torch.ones(3, 5), IdealEmulator()
    with pytest.raises(InputError, match=r"adc_range.*calibration inputs are needed"):
        CrossbarMatrix(weight, Architecture(adc_range="calibrated"), ideal, inputs=1.0)
    with pytest.raises(InputError, match=r"input_calibration='mse' needs InputStatistics"):
        CrossbarMatrix(weight, Architecture(input_calibration="mse"), ideal, inputs=1.0)
    with pytest.raises(InputError, match=r"input_scale: got 'tensor'; calibrate"):
        CrossbarMatrix(weight, Architecture(input_scale="tensor", input_frac_bits=3), ideal)
    with pytest.raises(InputError, match=r"adc_range: .*only the ADC ranges"):
        CrossbarMatrix(weight, Architecture(adc_range="unit"), ideal, inputs=1.0).calibrate_adc(torch.ones(1, 5))
