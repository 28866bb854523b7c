"""Converted layers and models against torch's own layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.circuit import Crossbar
from geniex.emulator import Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import ConversionError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.simulator import CrossbarConv2d, CrossbarLinear, convert, crossbar_layers
from geniex.surrogate import GeniexMLP

ARCH = Architecture(tile=(32, 32), weight_bits=20, input_bits=20, adc_bits=None, accumulator_bits=None)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 2), "bias": False},
        {"padding": "same", "dilation": 2},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "circular", "stride": 3},
        {"padding": (1, 2), "padding_mode": "replicate"},
    ],
)
def test_convolution_equals_torch_to_quantisation_error(options: dict) -> None:
    conv = nn.Conv2d(3, 7, (3, 2), **options).double()
    x = torch.randn(2, 3, 9, 11).double()
    got = convert(conv, ARCH, IdealEmulator(), calibration=x)(x)
    assert torch.allclose(got, conv(x), atol=3e-4)
    assert torch.allclose(convert(conv, ARCH, IdealEmulator(), calibration=x)(x[0]), conv(x[0]), atol=3e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_torch_to_quantisation_error(bias: bool) -> None:
    linear, x = nn.Linear(70, 33, bias=bias).double(), torch.randn(2, 3, 70).double()
    assert torch.allclose(convert(linear, ARCH, IdealEmulator(), calibration=x)(x), linear(x), atol=3e-4)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 10))


def test_the_original_is_untouched_and_every_layer_is_accounted_for() -> None:
    model, x = small_network(), torch.rand(5, 1, 8, 8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    converted = convert(model, ARCH, IdealEmulator(), calibration=x)
    assert model.training
    assert type(model[0]) is nn.Conv2d
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    report = converted.conversion
    assert [(r.name, r.kind, r.where) for r in report.layers] == [
        ("0", "Conv2d", "crossbar"),
        ("1", "BatchNorm2d", "digital"),
        ("4", "Linear", "crossbar"),
    ]
    assert list(crossbar_layers(converted)) == ["0", "4"]
    assert report.tiles == 2 * (1 * 1 + 2 * 2)
    assert "no matrix product" in str(report)
    assert torch.allclose(converted(x), model.eval()(x), atol=1e-3)


def test_rules_per_layer() -> None:
    model, x = small_network(), torch.rand(5, 1, 8, 8)
    coarse = ARCH.replace(weight_bits=3)
    one = convert(model, ARCH, IdealEmulator(), calibration=x, per_layer={"*": None, "4": coarse})
    assert type(one[0]) is nn.Conv2d
    assert one[4].matrix.architecture == coarse
    later = convert(model, ARCH, IdealEmulator(), calibration=x, per_layer={"*": None, "[04]": coarse})
    assert later[0].matrix.architecture == coarse
    with pytest.raises(ConversionError, match="'fc' names no layer"):
        convert(model, ARCH, IdealEmulator(), calibration=x, per_layer={"fc": None})


def test_a_module_used_twice_is_converted_in_both_places() -> None:
    shared = nn.Linear(6, 6)
    model, x = nn.Sequential(shared, nn.ReLU(), shared), torch.rand(4, 6)
    converted = convert(model, ARCH, IdealEmulator(), calibration=x)
    assert converted[0] is converted[2]
    assert torch.allclose(converted(x), model(x), atol=1e-3)


def test_unknown_layers_are_named_and_can_be_kept_digital() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose2d(1, 1, 2))
    arch = ARCH.replace(input_frac_bits=12)
    with pytest.raises(ConversionError, match=r"'1': ConvTranspose2d.*per_layer={'1': None}"):
        convert(model, arch, IdealEmulator())
    assert type(convert(model, arch, IdealEmulator(), per_layer={"1": None})[1]) is nn.ConvTranspose2d
    with pytest.raises(ConversionError, match=r"groups: got 2"):
        convert(nn.Conv2d(4, 4, 3, groups=2), arch, IdealEmulator())
    attention = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 2)})
    kept = convert(attention, arch, IdealEmulator(), per_layer={"attention": None})
    assert list(crossbar_layers(kept)) == ["head"]


def test_missing_calibration_and_foreign_tiles_are_named() -> None:
    with pytest.raises(ConversionError, match=r"'0'.*input_frac_bits.*calibrat"):
        convert(small_network(), ARCH, IdealEmulator())
    with pytest.raises(ConversionError, match="tile"):
        convert(small_network(), ARCH, LinearEmulator(Crossbar(16, 16)))


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("weight_bits", 4),
        ("input_bits", 4),
        ("adc_bits", 6),
        ("accumulator_bits", 8),
        ("accumulator_frac_bits", 2),
        ("slice_bits", 1),
        ("stream_bits", 1),
        ("offset", "ideal_after"),
        ("offset", "reference_column"),
        ("offset", "ideal_before"),
        ("rounding", "floor"),
        ("v_max", 0.5),
        ("window", ConductanceWindow(50e3, 6.0)),
        ("window", ConductanceWindow(100e3, 2.0)),
    ],
)
def test_every_knob_moves_the_output(knob: str, value: object) -> None:
    """On real wires, with everything else as it was."""
    from geniex.emulator import CircuitEmulator

    crossbar, x = Crossbar(32, 32, r_wire=20.0), torch.rand(2, 40).double()
    base = Architecture(tile=(32, 32), weight_bits=8, input_bits=8)
    linear = nn.Linear(40, 8).double()
    was, now = (
        convert(linear, arch, CircuitEmulator(crossbar), calibration=x)(x)
        for arch in (base, base.replace(**{knob: value}))
    )
    assert not torch.equal(was, now)


def ideal(crossbar: Crossbar) -> Emulator:
    return IdealEmulator()


def surrogate(crossbar: Crossbar) -> Emulator:
    mlp = GeniexMLP(crossbar, ConductanceWindow(100e3, 6.0), 0.25, hidden=8, r_min=0.9, r_max=1.3)
    return SurrogateEmulator(mlp, crossbar)


@pytest.mark.parametrize("make", [ideal, LinearEmulator, surrogate])
@pytest.mark.parametrize("stream_bits", [1, 4])
def test_forward_keeps_to_one_device_under_fake_cuda(make: Callable[[Crossbar], Emulator], stream_bits: int) -> None:
    arch = Architecture.puma(tile=(32, 32), stream_bits=stream_bits)
    with FakeTensorMode(), torch.device("cuda"):
        emulator = make(Crossbar(32, 32))
        conv = CrossbarConv2d(nn.Conv2d(1, 4, 3, stride=2), arch, emulator)
        linear = CrossbarLinear(nn.Linear(4 * 9, 10), arch, emulator)
        out = linear(conv(torch.empty(3, 1, 8, 8)).flatten(1))
    assert (out.shape, out.device.type, out.dtype) == ((3, 10), "cuda", torch.float32)
