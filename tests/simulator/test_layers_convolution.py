"""Convolutions of every kind against torch's own, with an ideal emulator and enough bits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator
from geniex.errors import InputError
from geniex.mapping import OFFSETS, Architecture, ConvGeometry, GroupPacking, im2col, to_kernels
from geniex.simulator import LayerRule, convert

ARCH = Architecture(tile=(32, 32), weight_bits=20, input_bits=20, adc_bits=None, accumulator_bits=None)
COARSE = Architecture(tile=(16, 16), weight_bits=8, input_bits=8)
QUANTISATION = 3e-4
"""Of some hundred products of 20-bit numbers up to 4."""

CASES: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (nn.Conv2d, {}),
    (nn.Conv2d, {"stride": 2, "padding": 1}),
    (nn.Conv2d, {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 2), "bias": False}),
    (nn.Conv2d, {"padding": "same", "dilation": 2}),
    (nn.Conv2d, {"padding": "valid"}),
    (nn.Conv2d, {"padding": 2, "padding_mode": "reflect"}),
    (nn.Conv2d, {"padding": 1, "padding_mode": "circular", "stride": 3}),
    (nn.Conv2d, {"padding": (1, 2), "padding_mode": "replicate"}),
    (nn.Conv2d, {"padding": "same", "padding_mode": "reflect"}),
    (nn.Conv2d, {"groups": 2}),
    (nn.Conv2d, {"groups": 4, "stride": 2, "padding": 1, "dilation": 2}),
    (nn.Conv1d, {"stride": 2, "padding": 1}),
    (nn.Conv1d, {"padding": "same", "groups": 4, "padding_mode": "circular"}),
    (nn.Conv3d, {"padding": (1, 0, 2), "stride": (1, 2, 1)}),
    (nn.Conv3d, {"padding": 1, "padding_mode": "reflect", "groups": 2, "dilation": (1, 1, 2)}),
    (nn.ConvTranspose2d, {}),
    (nn.ConvTranspose2d, {"stride": 2, "padding": 1, "output_padding": 1}),
    (nn.ConvTranspose2d, {"stride": (3, 2), "padding": (0, 2), "output_padding": (2, 0), "dilation": (2, 1)}),
    (nn.ConvTranspose2d, {"groups": 4, "stride": 2, "bias": False}),
    (nn.ConvTranspose2d, {"padding": 2, "groups": 2}),
    (nn.ConvTranspose1d, {"stride": 3, "output_padding": 2, "dilation": 3, "groups": 2}),
    (nn.ConvTranspose3d, {"stride": (1, 2, 3), "padding": 1, "output_padding": (0, 1, 2)}),
]


def case(kind: type[nn.Module], options: dict[str, Any]) -> tuple[nn.Module, Tensor]:
    """A layer of 4 to 8 channels with a kernel of unequal sides, and two maps of unequal sides."""
    torch.manual_seed(0)
    dims = int(kind.__name__[-2])
    layer = kind(4, 8, (3, 2, 2)[:dims], **options).double().eval()
    return layer, torch.randn(2, 4, *(9, 11, 5)[:dims], dtype=torch.float64)


@pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_convolution_equals_torch_to_quantisation_error(kind: type[nn.Module], options: dict[str, Any]) -> None:
    layer, x = case(kind, options)
    converted = convert(layer, ARCH, IdealEmulator(), calibration=x)
    assert torch.allclose(converted(x), layer(x), atol=QUANTISATION)
    assert torch.allclose(converted(x[0]), layer(x[0]), atol=QUANTISATION)


@pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_fields_times_kernels_is_the_convolution(kind: type[nn.Module], options: dict[str, Any]) -> None:
    """The layout alone, without any quantiser: equal to float64's rounding."""
    layer, x = case(kind, options)
    fields, size = im2col(x, ConvGeometry.of(layer))
    grouped = fields.unflatten(-1, (layer.groups, -1))
    out = torch.einsum("bpgi,goi->bgop", grouped, to_kernels(layer)).flatten(1, 2).unflatten(2, size)
    if layer.bias is not None:
        out = out + layer.bias.reshape(-1, *[1] * len(size))
    torch.testing.assert_close(out, layer(x))


@pytest.mark.parametrize("size", [(18, 23), (17, 22)])
def test_transposed_convolution_to_a_given_size(size: tuple[int, int]) -> None:
    layer, x = case(nn.ConvTranspose2d, {"stride": 2, "padding": 1})
    x = x[..., :8, :11]
    wanted = [size[0] - 1, size[1] - 1]
    converted = convert(layer, ARCH, IdealEmulator(), calibration=x)
    least = torch.tensor(layer(x).shape[-2:])
    wanted = (least + torch.tensor(size) % 2).tolist()
    got = converted(x, output_size=wanted)
    assert list(got.shape[-2:]) == wanted
    assert torch.allclose(got, layer(x, output_size=wanted), atol=QUANTISATION)
    with pytest.raises(InputError, match=r"output_size: got 90; for maps of 8 it must be from 15 to 16"):
        converted(x, output_size=(90, 22))


def depthwise() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Conv2d(6, 12, 3, groups=6, padding=1).eval(), torch.randn(2, 6, 5, 5)


def test_groups_share_arrays_where_they_fit() -> None:
    """9 word lines and 2 x 2 bit lines a group: on 32 x 32, three groups; on 16 x 16, one."""
    layer, x = depthwise()
    arch = ARCH.replace(weight_bits=9)
    packed = convert(layer, arch, IdealEmulator(), calibration=x)
    apart = convert(layer, arch, IdealEmulator(), calibration=x, per_layer={"": LayerRule(layout="dense")})
    small = convert(layer, arch.replace(tile=(16, 16)), IdealEmulator(), calibration=x)
    assert [len(m.matrices) for m in (packed, apart, small)] == [2, 6, 6]
    assert [m.conversion.arrays for m in (packed, apart, small)] == [4, 12, 12]
    used = 6 * 9 * 2 * 2
    assert packed.conversion.utilisation == pytest.approx(used / (2 * 32 * 32))
    assert apart.conversion.layers[0].utilisation == pytest.approx(used / (6 * 32 * 32))


def test_a_group_larger_than_an_array_takes_several() -> None:
    packing = GroupPacking.of(3, 40, 5, ARCH)
    assert packing.shapes == [(5, 40)] * 3
    assert GroupPacking.of(7, 9, 2, ARCH).shapes == [(6, 27), (6, 27), (2, 9)]


@pytest.mark.parametrize(
    ("scheme", "offset"),
    [
        *itertools.product(("differential", "offset", "twos_complement"), OFFSETS[1:]),
        ("differential", OFFSETS[0]),
        ("offset", OFFSETS[0]),
    ],
)
def test_layouts_agree_on_ideal_arrays(scheme: Any, offset: Any) -> None:
    """Equal binary points, so that nothing but the layout differs: then not even the last bit does."""
    layer, x = depthwise()
    arch = ARCH.replace(
        tile=(40, 40),
        weight_bits=6,
        input_bits=6,
        weight_frac_bits=5,
        input_frac_bits=3,
        offset=offset,
        weight_scheme=scheme,
    )
    packed, apart = (
        convert(layer, arch, IdealEmulator(), calibration=x, layout=layout, dtype=torch.float64)
        for layout in ("block_diagonal", "dense")
    )
    assert len(packed.matrices) < len(apart.matrices)
    assert torch.equal(packed(x), apart(x))


def test_one_bit_weights_have_no_zero_to_share_arrays_with() -> None:
    layer, x = depthwise()
    arch = ARCH.replace(weight_bits=1, weight_frac_bits=0)
    assert len(convert(layer, arch, IdealEmulator(), calibration=x).matrices) == 6


def test_a_group_alone_on_the_array_sees_the_array_it_would_see_alone() -> None:
    """Real wires: a group's currents depend on its neighbours on the array, and on nothing where it has none."""
    emulator: Emulator = CircuitEmulator(Crossbar(16, 16, r_wire=20.0))
    layer, x = depthwise()
    x = x[:1, :, :3, :3]
    whole = convert(layer, COARSE, emulator, calibration=x, layout="dense")
    single = nn.Conv2d(1, 2, 3, padding=1)
    single.weight.data, single.bias.data = layer.weight.data[4:6], layer.bias.data[4:6]
    alone = convert(single, COARSE, emulator, calibration=x[:, 2:3])
    assert torch.equal(whole(x)[:, 4:6], alone(x[:, 2:3]))


def test_gradients_reach_the_inputs() -> None:
    for kind, options in CASES[9], CASES[18]:
        layer, x = case(kind, options)
        x.requires_grad_()
        converted = convert(layer, ARCH, IdealEmulator(), calibration=x.detach())
        (got,) = torch.autograd.grad(converted(x).square().sum(), x)
        (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
        assert torch.allclose(got, expected, atol=1e-2)
