"""Layers and layouts that a user registers go onto crossbars as geniex' own do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniex import Architecture, IdealEmulator, convert
from geniex.errors import ConversionError, InputError
from geniex.mapping import Arrangement, Packing, TileLayout, register_layout
from geniex.mapping.layout import grouped
from geniex.simulator import CrossbarLinear, dry_run, load_converted, register_layer, save_converted

ARCH = Architecture(tile=(16, 32), weight_frac_bits=8, input_frac_bits=8)


class Doubled(nn.Linear):
    """A user's layer: twice the product of a linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * F.linear(input, self.weight) + (0 if self.bias is None else self.bias)


class CrossbarDoubled(CrossbarLinear):
    """Its form on crossbars; the factor is digital."""

    def forward(self, input: Tensor) -> Tensor:
        product = super().forward(input)
        return 2 * product if self.bias is None else 2 * product - self.bias


def whole(layer: nn.Module) -> nn.Module:
    """The layer with weights that fixed point holds exactly."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randint(-200, 200, parameter.shape) * 2.0**-8
    return layer


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from geniex.simulator.layers import crossbar

    monkeypatch.setattr(crossbar, "_kinds", dict(crossbar._kinds))
    register_layer(Doubled, CrossbarDoubled)


def test_a_layer_without_a_form_stays_digital() -> None:
    model = nn.Sequential(Doubled(20, 12), nn.Linear(12, 3))
    found = convert(model, ARCH, IdealEmulator()).conversion
    assert [layer.where for layer in found.layers] == ["digital", "crossbar"]
    assert found.layers[0].reason == "computes something else than Linear"
    with pytest.raises(ConversionError, match="cannot run on crossbars"):
        convert(model, ARCH, IdealEmulator(), per_layer={"0": ARCH})


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
def test_a_registered_layer_computes_what_it_computes(bias: bool, trainable: bool, tmp_path: Path) -> None:
    model = whole(nn.Sequential(Doubled(20, 12, bias=bias), nn.ReLU(), nn.Linear(12, 3)))
    x = torch.randint(-256, 256, (5, 20)) * 2.0**-8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = convert(model[:1], ARCH, IdealEmulator(), calibration=x, trainable=trainable)
    assert isinstance(made[0], CrossbarDoubled)
    assert torch.equal(made(x), model[0](x))
    assert made.conversion.layers[0].kind == "Doubled"
    again = load_converted(save_converted(made, tmp_path / "model"), model[:1])
    assert isinstance(again[0], CrossbarDoubled)
    assert torch.equal(again(x), made(x))


@pytest.mark.usefixtures("registered")
def test_a_subclass_of_a_registered_layer_counts_as_one_unless_it_computes_otherwise() -> None:
    class Named(Doubled):
        pass

    class Tripled(Doubled):
        def forward(self, input: Tensor) -> Tensor:
            return 1.5 * super().forward(input)

    found = convert(nn.Sequential(Named(20, 12), Tripled(12, 3)), ARCH, IdealEmulator())
    assert isinstance(found[0], CrossbarDoubled)
    assert found.conversion.layers[1].reason == "computes something else than Doubled"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("torch_kind", (int, CrossbarLinear)), ("kind", (Doubled, nn.Linear)), ("kind", (Doubled, 3))],
)
def test_what_cannot_be_registered_is_told(name: str, arguments: tuple[type, type]) -> None:
    with pytest.raises(InputError) as told:
        register_layer(*arguments)
    assert told.value.name == name


def test_a_registered_layout_is_converted_reported_and_saved(tmp_path: Path) -> None:
    """The outputs lie in reverse order; products, report and dry run do not change."""

    def reverse(matrix: Tensor, architecture: Architecture, packing: Packing) -> TileLayout:
        outputs, inputs = matrix.shape
        return TileLayout(architecture, inputs, outputs, Arrangement.of(outputs=range(outputs)[::-1]))

    register_layout("reversed", tile=reverse)
    model = whole(nn.Sequential(nn.Conv2d(2, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(9 * 4, 5)))
    x = torch.randint(0, 256, (3, 2, 4, 4)) * 2.0**-8
    one, other = (convert(model, ARCH, IdealEmulator(), layout=name) for name in ("reversed", "block_diagonal"))
    assert torch.equal(one(x), other(x))
    assert one[0].matrix.locate(0, 0) == other[0].matrix.locate(8, 0)
    planned = dry_run(model, ARCH, IdealEmulator(), layout="reversed", example=x)
    assert [layer.arrays for layer in planned.layers] == [layer.arrays for layer in one.conversion.layers]
    again = load_converted(save_converted(one, tmp_path / "model"), model)
    assert torch.equal(again(x), one(x))
    assert again[0].matrix.locate(0, 0) == one[0].matrix.locate(0, 0)


class Flat(CrossbarLinear):
    """A form whose weight has no groups."""

    weight_of = staticmethod(lambda module: module.weight)


class Unweighted(nn.Module):
    """A layer that does not have its weight as ``weight``."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, 4))


def test_a_registered_layer_that_is_none_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from geniex.simulator.layers import crossbar

    monkeypatch.setattr(crossbar, "_kinds", dict(crossbar._kinds))
    with pytest.raises(InputError, match=r"kind: .*all its methods"):
        register_layer(Doubled, crossbar.CrossbarLayer)
    register_layer(Doubled, Flat)
    with pytest.raises(ConversionError, match=r"layer '0': Flat.weight_of returned the shape \(3, 4\)"):
        convert(nn.Sequential(Doubled(4, 3)), ARCH, IdealEmulator())
    register_layer(Unweighted, CrossbarDoubled)
    found = convert(nn.Sequential(Unweighted(), nn.Linear(3, 2)), ARCH, IdealEmulator()).conversion
    assert found.layers[0].reason == "no parameter 'weight'"


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"tile": lambda *_: None}, "its tile returned a NoneType"),
        ({"tile": lambda m, a, p: TileLayout(a, m.shape[0], m.shape[1])}, "the matrix has 4 inputs and 3 outputs"),
        (
            {"tile": lambda m, a, p: TileLayout(a.replace(weight_bits=8), m.shape[1], m.shape[0])},
            "of another architect",
        ),
        ({"pack": lambda *_: None}, "its pack returned a NoneType"),
    ],
)
def test_a_registered_layout_that_is_none_says_so(
    functions: dict[str, Callable[..., Any]], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped, "_layouts", dict(grouped._layouts))
    register_layout("own", **functions)
    with pytest.raises(ConversionError, match=rf"^layer '0': layout: got 'own'; .*{message}"):
        convert(nn.Sequential(nn.Linear(4, 3)), ARCH, IdealEmulator(), layout="own")
    with pytest.raises(InputError, match="tile: got 3"):
        register_layout("own", tile=3)  # type: ignore[arg-type]
