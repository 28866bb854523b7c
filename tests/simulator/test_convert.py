"""Converted layers and models against torch's own layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.circuit import Crossbar
from geniex.emulator import Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.simulator import CrossbarConv, CrossbarLinear, convert, find_crossbar_layers
from geniex.surrogate import GeniexMLP

ARCH = Architecture(tile=(32, 32), weight_bits=20, input_bits=20, adc_bits=None, accumulator_bits=None)


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
    assert list(find_crossbar_layers(converted)) == ["0", "4"]
    assert report.arrays == 2 * (1 * 1 + 2 * 2)
    assert "no matrix product" in str(report)
    assert torch.allclose(converted(x), model.eval()(x), atol=1e-3)


def test_subsampled_calibration_keeps_the_extremes() -> None:
    """More receptive fields than are kept, the largest value in one place only."""
    x = torch.rand(2, 1, 80, 80, generator=torch.Generator().manual_seed(0))
    x[1, 0, 41, 77] = 99.0
    x[0, 0, 3, 5] = -5.0
    matrix = convert(nn.Conv2d(1, 1, 3), ARCH, IdealEmulator(), calibration=x).matrix
    assert matrix.input_frac_bits == ARCH.input_bits - 1 - 7
    assert not matrix.non_negative


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


class OwnConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class OwnAttention(nn.MultiheadAttention):
    def forward(self, *args: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(*args)[0]


class Named(nn.Linear):
    """A subclass that computes as its base does."""


class Odd(nn.Module):
    """Layers of all kinds, with a parameter of its own, one that is never called, and one whose weight is read."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.recurrent = nn.GRU(6, 6, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.own = OwnConv(1, 1, 1)
        self.attention = OwnAttention(6, 2)
        self.read = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.named = Named(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.recurrent(x * self.scale)[0])
        x = self.own(x[:, None])[:, 0]
        return self.named(nn.functional.linear(self.attention(x, x, x), self.read.weight))


def test_what_stays_digital_is_told_with_its_reason() -> None:
    torch.manual_seed(0)
    model, x = Odd().eval(), torch.randn(2, 3, 6)
    converted = convert(model, ARCH, IdealEmulator(), calibration=x)
    assert torch.allclose(converted(x), model(x), atol=1e-3)
    assert {layer.name: layer.reason for layer in converted.conversion.layers if layer.where == "digital"} == {
        "": "own parameters outside of its layers",
        "recurrent": "no crossbar form for this kind of layer",
        "norm": "no matrix product",
        "own": "computes something else than Conv2d",
        "attention": "computes something else than MultiheadAttention",
        "read": "never called on the inputs given",
        "unused": "never called on the inputs given",
    }
    assert list(find_crossbar_layers(converted)) == ["named"]
    blind = convert(model, ARCH.replace(input_frac_bits=12), IdealEmulator())
    with pytest.raises(AttributeError, match=r"reads \.weight: keep this layer digital by a rule"):
        blind(x)


def test_a_rule_cannot_ask_for_what_is_not_there() -> None:
    arch = ARCH.replace(input_frac_bits=12)
    with pytest.raises(ConversionError, match=r"'recurrent'.*GRU cannot run on crossbars"):
        convert(Odd(), arch, IdealEmulator(), per_layer={"recurrent": ARCH})
    assert "GRU" in str(convert(Odd(), arch, IdealEmulator(), per_layer={"rec*": ARCH}).conversion)
    with pytest.raises(InputError, match=r"per_layer\['named'\]: got 'digital'"):
        convert(Odd(), arch, IdealEmulator(), per_layer={"named": "digital"})  # type: ignore[dict-item]


@pytest.mark.parametrize("wrong", [Crossbar(32, 32), LinearEmulator, None])
def test_what_is_no_emulator_is_said_to_be_none(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"emulator: got .*must be an Emulator"):
        convert(nn.Linear(4, 4), ARCH, wrong)
    with pytest.raises(InputError, match="architecture: got"):
        convert(nn.Linear(4, 4), wrong, IdealEmulator())


def test_a_model_of_several_inputs_is_calibrated_by_a_function() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Bilinear(4, 4, 4), torch.randn(3, 4), torch.randn(3, 4)
    both = nn.ModuleDict({"bilinear": model, "linear": nn.Linear(4, 2)})
    converted = convert(both, ARCH, IdealEmulator(), calibration=lambda m: m["linear"](input=m["bilinear"](x, y)))
    assert list(find_crossbar_layers(converted)) == ["linear"]
    inputs = model(x, y)
    assert torch.allclose(converted["linear"](inputs), both["linear"](inputs), atol=1e-3)


def test_every_architecture_has_an_emulator_of_its_own() -> None:
    """A surrogate is bound to the drive of one architecture: two in one model do not disturb each other."""
    torch.manual_seed(0)
    crossbar, x = Crossbar(16, 16, r_wire=5.0), torch.rand(4, 16)
    arch = Architecture(tile=(16, 16), weight_bits=8, input_bits=8)
    other = arch.replace(v_max=0.1, stream_bits=1)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    emulator = SurrogateEmulator("physics-fast", crossbar)
    both = convert(model, arch, emulator, per_layer={"1": other}, calibration=x)
    alone = convert(model, arch, emulator, per_layer={"1": None}, calibration=x)
    assert torch.equal(both[0](x), alone[0](x))
    assert emulator.surrogate is not both[0].matrix.emulator.surrogate
    assert both[1].matrix.emulator.surrogate.v_max == 0.1


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
@pytest.mark.filterwarnings("ignore::geniex.errors.ConversionWarning")
def test_every_knob_moves_the_output(knob: str, value: object) -> None:
    """On real wires, with everything else as it was."""
    from geniex.emulator import CircuitEmulator

    crossbar, x = Crossbar(32, 32, r_wire=20.0), torch.rand(2, 40).double()
    base = Architecture(tile=(32, 32), weight_bits=8, input_bits=8, accumulator_bits=32, accumulator_frac_bits=24)
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


@pytest.mark.slow
@pytest.mark.parametrize("make", [ideal, LinearEmulator, surrogate])
@pytest.mark.parametrize("stream_bits", [1, 4])
def test_forward_keeps_to_one_device_under_fake_cuda(make: Callable[[Crossbar], Emulator], stream_bits: int) -> None:
    arch = Architecture.puma(tile=(32, 32), stream_bits=stream_bits)
    with FakeTensorMode(), torch.device("cuda"):
        emulator = make(Crossbar(32, 32))
        conv = CrossbarConv(nn.Conv2d(1, 4, 3, stride=2), arch, emulator)
        linear = CrossbarLinear(nn.Linear(4 * 9, 10), arch, emulator)
        out = linear(conv(torch.empty(3, 1, 8, 8)).flatten(1))
    assert (out.shape, out.device.type, out.dtype) == ((3, 10), "cuda", torch.float32)
