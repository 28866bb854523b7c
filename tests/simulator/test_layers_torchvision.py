"""torchvision's classifiers on ideal crossbars with enough bits are torchvision's classifiers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from geniex.emulator import IdealEmulator
from geniex.mapping import Architecture
from geniex.simulator import convert, dry_run, find_crossbar_layers

ARCH = Architecture(
    tile=(128, 128), weight_bits=16, input_bits=16, slice_bits=8, stream_bits=8, adc_bits=None, accumulator_bits=None
)


def narrow_vgg() -> nn.Module:
    """vgg11_bn with an eighth of the channels and no hidden layers behind: the real one has 129 million weights."""
    plan = [size if isinstance(size, str) else size // 8 for size in torchvision.models.vgg.cfgs["A"]]
    features = torchvision.models.vgg.make_layers(plan, batch_norm=True)
    return nn.Sequential(features, nn.Flatten(), nn.Linear(64, 10))


def small_vit() -> nn.Module:
    """torchvision's vit_b_16 with fewer and narrower layers; its head starts at 0 otherwise."""
    vit = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    )
    nn.init.normal_(vit.heads.head.weight)
    return vit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "layers", "fold"),
    [
        (lambda: torchvision.models.resnet18(num_classes=10), 21, False),
        (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), 54, True),
        (narrow_vgg, 9, False),
        (narrow_vgg, 9, True),
        (small_vit, 1 + 2 * 6 + 1, False),
    ],
    ids=["resnet18", "mobilenet_v3_small", "vgg11_bn", "vgg11_bn folded", "vit"],
)
def test_classifiers_compute_what_they_did(make: Callable[[], nn.Module], layers: int, fold: bool) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        converted = convert(model, ARCH, IdealEmulator(), calibration=x, fold=fold)
        expected, got = model(x), converted(x)
    assert len(find_crossbar_layers(converted)) == layers
    assert (got - expected).norm() < 2e-3 * expected.norm()


@pytest.mark.parametrize(
    "make",
    [
        torchvision.models.resnet18,
        torchvision.models.vgg11_bn,
        torchvision.models.mobilenet_v3_small,
        torchvision.models.vit_b_16,
    ],
)
def test_every_weight_of_the_full_ones_finds_a_place(make: Callable[[], nn.Module]) -> None:
    """All parameters of two dimensions or more, but the transformer's positions and class token."""
    with torch.device("meta"):
        model, image = make(), torch.empty(1, 3, 224, 224)
    report = dry_run(model, ARCH, IdealEmulator(), example=image)
    cells = report.utilisation * report.arrays / ARCH.arrays * ARCH.tile[0] * ARCH.tile[1]
    digital = ("class_token", "encoder.pos_embedding")
    weights = sum(p.numel() for name, p in model.named_parameters() if p.dim() > 1 and name not in digital)
    assert cells == pytest.approx(weights * ARCH.slices)
    assert {layer.reason for layer in report.layers if layer.where == "digital"} <= {
        "no matrix product",
        "own parameters outside of its layers",
    }
