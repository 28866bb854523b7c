"""Batch norms folded into convolutions: the same function, and only where that is certain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from geniex.emulator import IdealEmulator
from geniex.mapping import Architecture
from geniex.simulator import convert, fold_batch_norm

ARCH = Architecture(tile=(32, 32), weight_bits=20, input_bits=20, adc_bits=None, accumulator_bits=None)


def trained(model: nn.Module) -> nn.Module:
    """``model`` with norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
            if module.running_mean is not None and module.running_var is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchvision.models.resnet18(),
        lambda: torchvision.models.mobilenet_v3_small(),
        lambda: torchvision.models.vgg11_bn(),
    ],
    ids=["resnet18", "mobilenet_v3_small", "vgg11_bn"],
)
def test_no_norm_is_left_in_torchvisions(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        shell = make()
    assert norms(fold_batch_norm(shell)) == 0


def test_folding_keeps_the_function_and_the_original() -> None:
    torch.manual_seed(0)
    model = trained(torchvision.models.resnet18(num_classes=4)).double().train()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    folded = fold_batch_norm(model)
    assert model.training
    assert norms(model) == 20
    assert isinstance(folded.layer1[0].bn1, nn.Identity)
    torch.testing.assert_close(folded(x), model.eval()(x))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv1d(4, 6, 3, groups=2, bias=False), nn.BatchNorm1d(6)),
        nn.Sequential(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6, affine=False)),
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)),
    ],
    ids=lambda model: type(model[0]).__name__,
)
def test_every_kind_of_convolution(model: nn.Sequential) -> None:
    torch.manual_seed(0)
    if model[1].affine:
        trained(model)
    model.double().eval()
    x = torch.randn(2, 4, *(5, 6, 7)[: int(type(model[0]).__name__[-2])], dtype=torch.float64)
    folded = fold_batch_norm(model)
    assert norms(folded) == 0
    torch.testing.assert_close(folded(x), model(x))


class Branching(nn.Module):
    """Norms whose convolution is also used elsewhere, twice, or shared, and control flow that tracing cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.after = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.first = nn.BatchNorm2d(3)
        self.plain = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y + self.norm(y)
        y = self.after(self.twice(y)) + self.twice(y * 2)
        return self.plain(self.first(y))


class Untraceable(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


@pytest.mark.parametrize("kind", [Branching, Untraceable])
def test_only_what_is_certain_is_folded(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = trained(kind()).double(), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    folded = fold_batch_norm(model)
    assert [name for name, m in folded.named_modules() if isinstance(m, nn.Identity)] == ["plain.1"]
    torch.testing.assert_close(folded(x), model(x))


def test_what_cannot_be_folded_stays() -> None:
    """A Linear's norm, one without statistics, a shared pair, and a grouped transposed convolution's."""
    shared = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    models: list[tuple[nn.Module, Tensor]] = [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), torch.rand(2, 3, 3)),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)), torch.rand(2, 3, 4, 4)),
        (nn.Sequential(shared, nn.ReLU(), shared), torch.rand(2, 3, 4, 4)),
        (nn.Sequential(nn.ConvTranspose2d(2, 4, 2, groups=2), nn.BatchNorm2d(4)), torch.rand(2, 2, 4, 4)),
    ]
    for model, x in models:
        trained(model)
        folded = fold_batch_norm(model)
        assert norms(folded) == 1
        torch.testing.assert_close(folded(x), model(x))


def test_convert_folds_if_asked_and_tells_where_norms_went() -> None:
    torch.manual_seed(0)
    model = trained(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    x = torch.randn(2, 1, 8, 8)
    folded = convert(model, ARCH, IdealEmulator(), calibration=x, fold=True)
    assert [(layer.name, layer.where, layer.reason) for layer in folded.conversion.layers] == [
        ("0", "crossbar", ""),
        ("3", "crossbar", ""),
        ("1", "folded", "into 0"),
    ]
    assert torch.allclose(folded(x), model(x), atol=1e-3)
    plain = convert(model, ARCH, IdealEmulator(), calibration=x)
    assert plain.conversion.layer("1").where == "digital"
