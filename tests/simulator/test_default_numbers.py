"""What a newcomer gets from the defaults: the product by hand, whatever the scale of its numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex import Architecture, CircuitEmulator, IdealEmulator, LinearEmulator, convert, presets
from geniex.circuit import Crossbar
from geniex.emulator import Emulator
from geniex.errors import ConversionWarning, InputError
from geniex.simulator import CrossbarMatrix, InputStatistics, load_converted, save_converted

IDEAL = IdealEmulator()


def seen(x: Tensor) -> InputStatistics:
    statistics = InputStatistics()
    statistics.add(x)
    return statistics


def test_a_product_by_hand() -> None:
    weight = torch.tensor([[8.0, 3, -2], [-4, 7, 5], [3, 4, -12]])
    x = torch.tensor([9.0, 15, 35])
    for inputs in (35.0, seen(x[None])):
        assert CrossbarMatrix(weight, Architecture(), IDEAL, inputs=inputs)(x).tolist() == [47, 244, -333]


@pytest.mark.parametrize("value", [1.0, 257.0, 300.0, 600.0, 30_000.0])
def test_one_weight_passes_its_input_on(value: float) -> None:
    product = CrossbarMatrix(torch.ones(1, 1), Architecture(), IDEAL, inputs=value)(torch.tensor([value]))
    assert product.item() == pytest.approx(value, rel=2**-14)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("weights", ["power_of_two", "tensor", "channel"])
@pytest.mark.parametrize("inputs", ["power_of_two", "tensor"])
def test_every_scale_of_numbers_is_as_exact(scale: float, weights: str, inputs: str) -> None:
    """16 bits leave an error of a few 2^-14, however large the numbers are."""
    generator = torch.Generator().manual_seed(0)
    linear, x = nn.Linear(150, 20), torch.randn(40, 150, generator=generator).relu() * scale
    converted = convert(linear, Architecture(weight_scale=weights, input_scale=inputs), IDEAL, calibration=x)
    error = (converted(x) - linear(x)).norm() / (linear(x) - linear.bias).norm()
    assert error < 2e-4


def test_a_finite_accumulator_places_its_point_by_the_weights() -> None:
    """Its 16 bits hold twice whatever inputs in their range can cause, as cells may conduct more than linearly."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(5, 60, generator=generator).double(), torch.rand(4, 60, generator=generator).double()
    x[0] = 1.0
    for scale in (1e-3, 1.0, 1e3):
        exact, finite = (
            CrossbarMatrix(scale * weight, Architecture(accumulator_bits=bits), IDEAL, inputs=seen(x))
            for bits in (None, 16)
        )
        assert (finite(x) - exact(x)).abs().max() < scale * weight.abs().sum(1).max() * 2**-12
        use = finite.converter_use(x)
        assert (use.overflowed, use.sums > 0) == (0, True)


def test_the_point_goes_with_a_saved_state() -> None:
    weight, arch = torch.randn(3, 20), Architecture(accumulator_bits=12)
    made, other = (CrossbarMatrix(w, arch, IDEAL, inputs=1.0) for w in (weight, 100 * weight))
    other.load_state_dict(made.state_dict())
    x = torch.rand(4, 20)
    assert torch.equal(made(x), other(x))


def test_pumas_accumulator_is_the_authors() -> None:
    """32 bits with 24 fraction bits wrap at +-256."""
    puma = Architecture.puma()
    assert (puma.accumulator_bits, puma.accumulator_frac_bits, puma.accumulator_overflow) == (32, 24, "wrap")
    assert (puma.adc_range, puma.adc_bits) == ("unit", 14)
    product = CrossbarMatrix(torch.full((1, 30), 3.0), puma, IDEAL)(torch.full((30,), 3.0))
    assert product.item() == 30 * 9 - 256


def test_overflow_is_counted_and_told() -> None:
    linear, x = nn.Linear(30, 2, bias=False), torch.full((4, 30), 3.0)
    with torch.no_grad():
        linear.weight[:] = torch.tensor([[3.0], [0.1]])
    for overflow, word in (("wrap", "wrap"), ("saturate", "saturate")):
        arch = Architecture(accumulator_bits=32, accumulator_frac_bits=24, accumulator_overflow=overflow)
        with pytest.warns(ConversionWarning, match=rf"layer '0': 50.00% of its sums {word} in the 32-bit.*=None"):
            converted = convert(nn.Sequential(linear), arch, IDEAL, calibration=x)
        assert converted.conversion.layer("0").overflowed == 0.5  # type: ignore[union-attr]
        assert converted.conversion.overflowed == 0.5  # type: ignore[union-attr]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = convert(nn.Sequential(linear), Architecture(), IDEAL, calibration=x).conversion
    assert report.overflowed is None  # type: ignore[union-attr]


def test_clipping_is_counted_and_told() -> None:
    """A column of ones driven at full level: 64 * 15 * 15 counts, of which a signed 8-bit ADC holds 127."""
    linear, x = nn.Linear(64, 3, bias=False), torch.ones(4, 64)
    with torch.no_grad():
        linear.weight[:] = torch.tensor([[1.0], [-1.0], [0.0]])
    arch = Architecture(weight_bits=5, input_bits=5, weight_scale="tensor", input_scale="tensor", adc_bits=8)
    with pytest.warns(ConversionWarning, match=r"layer '': 100.00% of its ADC conversions clip .*'calibrated'"):
        unit = convert(linear, arch.replace(adc_range="unit"), IDEAL, calibration=x)
    report = unit.conversion.layer("")  # type: ignore[union-attr]
    assert (report.adc_clipped, report.adc_codes_used, report.adc_step) == (1.0, 1.0, (1.0, 1.0))
    clear = convert(linear, arch, IDEAL, calibration=x)
    report = clear.conversion.layer("")  # type: ignore[union-attr]
    assert report.adc_clipped == 0.0
    assert report.adc_codes_used == pytest.approx(254 / 256, abs=2 / 256)
    assert report.adc_step[0] == pytest.approx(64 * 15 * 15 / 127, rel=2**-7)
    assert (clear(x) - linear(x)).abs().max() < 0.6


def test_bit_lines_without_weights_are_no_conversions() -> None:
    """Three outputs of one slice on 64 bit lines: three conversions a read, not 64."""
    arch = Architecture(weight_bits=5, input_bits=4, adc_bits=14)
    matrix = CrossbarMatrix(torch.rand(3, 10) + 0.1, arch, IDEAL, inputs=1.0)
    assert matrix.converter_use(torch.full((2, 10), 0.9)).conversions == 2 * 3


@pytest.mark.filterwarnings("ignore:.*ADC changes its sums")
def test_a_range_far_too_wide_is_told() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 8), torch.rand(40, 64)
    arch = Architecture(weight_bits=8, input_bits=8, adc_bits=6, adc_range="full_scale")
    with pytest.warns(ConversionWarning, match=r"only .*% of its ADC's 64 codes occur, .*'calibrated'"):
        wide = convert(linear, arch, IDEAL, calibration=x)
    fitting = convert(linear, arch.replace(adc_range="auto"), IDEAL, calibration=x)
    assert (fitting(x) - linear(x)).norm() < 0.7 * (wide(x) - linear(x)).norm()


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("calibrated", [True, False])
def test_the_default_range_clips_nothing(rows: int, calibrated: bool) -> None:
    """At 128 rows a code of one count spans 8,192 of the 28,800 counts that are possible."""
    arch = Architecture(tile=(rows, 64), weight_bits=5, input_bits=5, weight_scale="tensor", input_scale="tensor")
    weight, x = torch.ones(2, rows), torch.ones(1, rows)
    made = CrossbarMatrix(weight, arch, IDEAL, inputs=seen(x) if calibrated else 1.0)
    assert made(x)[0].tolist() == pytest.approx([rows, rows], rel=2**-12)
    assert made.converter_use(x).clipped == 0


def test_codes_of_one_count_stay_where_they_suffice() -> None:
    """Then no step is kept, and ideal tiles need no read."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(8, 64, generator=generator), torch.rand(70, 64, generator=generator)
    auto, unit = (
        CrossbarMatrix(weight, Architecture(adc_range=adc_range), IDEAL, inputs=seen(x))
        for adc_range in ("auto", "unit")
    )
    assert auto.adc_step is None
    assert torch.equal(auto(x), unit(x))


class Amplifying(IdealEmulator):
    """Cells that conduct four times as much as they should, by no law that is linear."""

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Four times the product."""
        return 4 * super().read(array, voltages)

    def response(self, array: Any) -> None:
        """None: nobody knows."""


def test_the_default_range_follows_cells_that_conduct_more_than_linearly() -> None:
    arch = Architecture(tile=(16, 16), weight_bits=5, input_bits=5, adc_bits=13)
    weight, x = torch.ones(2, 16), torch.ones(3, 16)
    made = CrossbarMatrix(weight, arch, Amplifying(), inputs=seen(x))
    assert made(x).flatten().tolist() == pytest.approx([64.0] * 6, rel=1e-2)
    assert made.converter_use(x).clipped == 0


class Broken(IdealEmulator):
    """Gives no currents."""

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """NaN."""
        return super().read(array, voltages) * torch.nan

    def response(self, array: Any) -> None:
        """None: nobody knows."""


def test_an_emulator_without_currents_is_told() -> None:
    with pytest.raises(InputError, match=r"emulator: got ideal.*NaN or infinite on the calibration inputs"):
        CrossbarMatrix(
            torch.ones(2, 16), Architecture(adc_range="calibrated"), Broken(), inputs=seen(torch.ones(3, 16))
        )


def test_ranges_of_their_own_come_and_go_with_a_saved_state() -> None:
    weight, arch, x = torch.rand(3, 64), Architecture(adc_bits=10), torch.rand(80, 64)
    few = torch.eye(3, 64)  # at most 15 x 15 counts
    made, without = (CrossbarMatrix(w, arch, IDEAL, inputs=seen(x)) for w in (weight, few))
    assert made.adc_step is not None
    assert without.adc_step is None
    for one, other in ((made, without), (without, made)):
        copy = CrossbarMatrix(weight, arch, IDEAL, inputs=seen(x))
        copy.load_state_dict(one.state_dict())
        assert torch.equal(copy(x), one(x))
        assert not torch.equal(copy(x), other(x))


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        ({"weight_frac_bits": 15}, torch.rand(9, 20), r"% of its weights lie beyond .* weight_frac_bits=None"),
        (
            {"weight_frac_bits": -2},
            torch.rand(9, 20),
            r"its outputs' weights by .* weight_frac_bits=None",
        ),
        ({"input_frac_bits": 16}, torch.rand(9, 20), r"% of its inputs lie beyond .* input_frac_bits=None"),
        (
            {"input_frac_bits": -2},
            torch.rand(9, 20),
            r"most of its inputs by .* input_frac_bits=None",
        ),
        ({"input_scheme": "unsigned"}, torch.randn(9, 20), r"% of its inputs lie beyond .*another input_scheme"),
    ],
)
def test_a_fixed_point_range_that_does_not_fit_is_told(options: dict, x: Tensor, message: str) -> None:
    linear = nn.Linear(20, 5)
    with torch.no_grad():
        linear.weight.copy_(3 * torch.randn(5, 20, generator=torch.Generator().manual_seed(0)))
    with pytest.warns(ConversionWarning, match=message):
        convert(linear, Architecture(**options), IDEAL, calibration=x)


def test_one_large_number_is_told_where_it_leaves_nothing_to_the_others() -> None:
    linear, x = nn.Linear(50, 30), torch.rand(20, 50)
    arch = Architecture(weight_bits=8, input_bits=8)
    with torch.no_grad():
        linear.weight[0, 0] = 1e4
    with pytest.warns(ConversionWarning, match=r"changes most of its outputs' weights by 100%.*weight_scale='channel'"):
        convert(linear, arch, IDEAL, calibration=x)
    convert(linear, arch.replace(weight_scale="channel"), IDEAL, calibration=x)
    linear, x[0, 0] = nn.Linear(50, 30), 1e5
    with pytest.warns(ConversionWarning, match=r"changes most of its inputs by 100%.*input_calibration='mse'"):
        convert(linear, arch, IDEAL, calibration=x)


def test_a_state_of_another_architecture_is_refused() -> None:
    """Slices of 2 bits would take conductances of 4-bit slices for other weights, in tensors of the same shape."""
    weight = torch.randn(3, 20)
    made = CrossbarMatrix(weight, Architecture(), IDEAL, inputs=1.0)
    for change in ({"slice_bits": 2}, {"input_bits": 8}, {"weight_scale": "tensor"}):
        with pytest.raises((InputError, RuntimeError), match=r"another architecture|Missing key|Unexpected key"):
            CrossbarMatrix(weight, Architecture(**change), IDEAL, inputs=1.0).load_state_dict(made.state_dict())


def test_a_bias_must_be_a_number() -> None:
    linear = nn.Linear(5, 3)
    with torch.no_grad():
        linear.bias[1] = torch.nan
    with pytest.raises(ValueError, match=r"layer '': bias: got NaN or infinity"):
        convert(linear, Architecture(), IDEAL, calibration=torch.rand(4, 5))


def test_what_fixed_point_does_is_reported() -> None:
    """A uniform error of half a last bit at most: its RMS is 1 / sqrt(12) of a bit."""
    generator = torch.Generator().manual_seed(0)
    linear, x = nn.Linear(200, 50, bias=False), 2 * torch.rand(100, 200, generator=generator) - 1
    with torch.no_grad():
        linear.weight.uniform_(-1, 1, generator=generator)
    arch = Architecture(weight_bits=8, input_bits=6, weight_scale="tensor", input_scale="tensor")
    report = convert(linear, arch, IDEAL, calibration=x).conversion.layer("")  # type: ignore[union-attr]
    assert report.weight_error == pytest.approx(1 / 127 / 12**0.5 * 3**0.5, rel=0.05)
    assert report.input_error == pytest.approx(1 / 31 / 12**0.5 * 3**0.5, rel=0.05)
    assert (report.weights_clipped, report.inputs_clipped) == (0.0, 0.0)


@pytest.mark.parametrize("kind", ["linear", "circuit"])
def test_figures_are_of_the_emulator_at_hand(kind: str) -> None:
    """Wires take current, and with it codes."""
    crossbar = Crossbar(32, 32, r_wire=20.0)
    wired: Emulator = LinearEmulator(crossbar) if kind == "linear" else CircuitEmulator(crossbar)
    linear, x = nn.Linear(32, 16, bias=False), torch.rand(20, 32)
    with torch.no_grad():
        linear.weight.abs_()
    arch = Architecture(tile=(32, 32), weight_bits=5, input_bits=5, adc_bits=12, adc_range="unit")
    used = [convert(linear, arch, e, calibration=x).conversion.adc_codes_used for e in (IDEAL, wired)]  # type: ignore[union-attr]
    assert used[1] < 0.95 * used[0]


def test_a_single_map_is_calibrated_whole() -> None:
    """It has no batch to be cut along: its channels stay together."""
    conv, maps = nn.Conv2d(3, 4, 2), torch.randn(3, 6, 6)
    one, batch = (convert(conv, Architecture(), IDEAL, calibration=x) for x in (maps, maps[None]))
    assert torch.equal(one(maps), batch(maps[None])[0])
    assert one.conversion == batch.conversion


def test_presets_take_the_defaults() -> None:
    arch = presets["geniex-64"].architecture()
    assert (arch.accumulator_bits, arch.adc_range) == (None, "auto")


@pytest.mark.parametrize("scheme", [{}, {"weight_scale": "channel", "adc_bits": 6}])
def test_points_and_ranges_are_saved(tmp_path: Path, scheme: dict) -> None:
    model, x = nn.Sequential(nn.Linear(70, 12), nn.ReLU(), nn.Linear(12, 3)), torch.rand(30, 70)
    converted = convert(model, Architecture(accumulator_bits=18, **scheme), IDEAL, calibration=x)
    save_converted(converted, tmp_path / "saved")
    assert torch.equal(load_converted(tmp_path / "saved", model)(x), converted(x))


def test_converters_that_are_too_coarse_are_told() -> None:
    linear, x = nn.Linear(40, 10), torch.randn(32, 40)
    for kw, message in (
        ({"adc_bits": 5}, r"5-bit ADC changes its sums by .*more adc_bits"),
        ({"accumulator_bits": 32, "accumulator_frac_bits": 0}, r"accumulator .*changes its sums by .*cuts off bits"),
    ):
        with pytest.warns(ConversionWarning, match=message):
            report = convert(linear, Architecture(**kw), IDEAL, calibration=x).conversion
        found = convert_error(linear, kw, x)
        figure = "adc_error" if "adc_bits" in kw else "accumulator_error"
        assert getattr(report.layer(""), figure) == pytest.approx(found, rel=0.5)  # type: ignore[union-attr]


def convert_error(linear: nn.Linear, kw: dict, x: Tensor) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = convert(linear, Architecture(**kw), IDEAL, calibration=x)
    with torch.no_grad():
        exact = linear(x) - linear.bias
        return float((converted(x) - linear(x)).norm() / exact.norm())


def test_calibration_without_inputs_or_of_zeros_is_told() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(InputError, match=r"calibration: got a batch without an example"):
        convert(model, Architecture(), IDEAL, calibration=torch.zeros(0, 4))
    with pytest.warns(ConversionWarning, match=r"all of its calibration inputs are 0"):
        convert(model, Architecture(), IDEAL, calibration=torch.zeros(3, 4))


def test_what_is_no_architecture_emulator_or_tensor_is_named() -> None:
    weight = torch.randn(3, 4)
    with pytest.raises(InputError, match=r"architecture: got dict"):
        CrossbarMatrix(weight, {}, IDEAL, inputs=1.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"emulator: got IdealEmulator; it must be an Emulator"):
        CrossbarMatrix(weight, Architecture(), IdealEmulator, inputs=1.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"x: got str; it must be a tensor"):
        CrossbarMatrix(weight, Architecture(), IDEAL, inputs=1.0)("a")
