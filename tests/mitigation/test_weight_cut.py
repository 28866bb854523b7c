"""WCT: with the full scale of before, cut weights are low conductances; scaled anew, high ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mitigation_cases import ARCH, network
from torch import nn

from geniex.emulator import IdealEmulator
from geniex.errors import ConversionError, InputError
from geniex.mitigation import weight_cut, weight_full_scales
from geniex.simulator import CrossbarMatrix, LayerRule, convert, load_converted, save_converted

SCALES = ["power_of_two", "tensor", "channel"]


def cut_network(share: float = 0.5) -> tuple[Any, dict[str, float]]:
    """Two layers whose weights were cut to a share of what they were, and what that was."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4)).eval()
    scales = weight_full_scales(net)
    weight_cut(net, share).enforce(net)
    return net, scales


IMAGES = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def rules(scales: dict[str, float]) -> dict[str, LayerRule]:
    return {name: LayerRule(weight_full_scale=scale) for name, scale in scales.items()}


def test_full_scales_are_the_largest_weights() -> None:
    net = network("resnet")
    wanted = {
        n: float(np.abs(m.weight.detach().numpy()).max())
        for n, m in net.named_modules()
        if hasattr(m, "weight") and not isinstance(m, nn.BatchNorm2d)
    }
    assert weight_full_scales(net) == wanted


@pytest.mark.parametrize("scale", SCALES)
def test_conductances_stay_low_with_the_full_scale_of_before(scale: str) -> None:
    net, scales = cut_network(0.4)
    arch = ARCH.replace(weight_scale=scale, slice_bits=5)  # a weight a cell, as in the paper
    kept, anew = (convert(net, arch, IdealEmulator(), calibration=IMAGES, per_layer=r) for r in (rules(scales), None))
    for index in (0, 3):
        low, high = kept[index].matrix.conductances, anew[index].matrix.conductances
        top_kept, top_anew = _largest(kept[index].matrix), _largest(anew[index].matrix)
        # Of 31: at most 0.4 of it (and less by up to a half where scales are powers of two), or all of it.
        assert top_kept <= round(0.4 * 31)
        assert top_anew > 15
        assert low.mean() < high.mean()


def _largest(matrix: CrossbarMatrix) -> int:
    return int(ARCH.window.to_code(matrix.conductances, 32).max())


@pytest.mark.parametrize("scale", SCALES)
def test_integers_are_those_of_the_scale_by_hand(scale: str) -> None:
    net, scales = cut_network(0.4)
    arch = ARCH.replace(weight_scale=scale)
    matrix = convert(net, arch, IdealEmulator(), calibration=IMAGES, per_layer=rules(scales))[3].matrix
    full, weight = scales["3"], net[3].weight.detach().double().numpy()
    step = full / 31 if scale != "power_of_two" else 2.0 ** -np.floor(np.log2(31 / full))
    levels = arch.window.to_code(matrix.conductances, 8).double()
    numbers = (levels[..., 0::2] * 8 + levels[..., 1::2])[:, 0] - (levels[..., 0::2] * 8 + levels[..., 1::2])[:, 1]
    found = matrix.layout.join_weights(numbers[:, None])[0].numpy()
    np.testing.assert_array_equal(found, np.round(weight / step))


def test_a_network_that_was_not_cut_is_converted_the_same() -> None:
    net, _ = cut_network(1.0)
    for scale in ("power_of_two", "tensor"):
        arch = ARCH.replace(weight_scale=scale)
        plain = convert(net, arch, IdealEmulator(), calibration=IMAGES)
        told = convert(net, arch, IdealEmulator(), calibration=IMAGES, per_layer=rules(weight_full_scales(net)))
        assert torch.equal(plain[3].matrix.conductances, told[3].matrix.conductances)
        assert torch.equal(plain(IMAGES), told(IMAGES))


def test_channels_may_have_scales_of_their_own() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 2, groups=2, bias=False)
    net = nn.Sequential(conv)
    full = tuple((1.5 + torch.arange(6)).tolist())
    arch = ARCH.replace(weight_scale="channel")
    images = torch.rand(2, 4, 3, 3)
    for layout in ("dense", "block_diagonal"):
        model = convert(
            net,
            arch,
            IdealEmulator(),
            calibration=images,
            layout=layout,
            per_layer={"0": LayerRule(weight_full_scale=full)},
        )
        gains = torch.cat([m.weight_gain * 2.0**-m.weight_frac_bits for m in model[0].matrices])
        torch.testing.assert_close(gains, torch.tensor(full) / 31)
    shared = convert(net, arch, IdealEmulator(), calibration=images, per_layer={"0": LayerRule(weight_full_scale=2.0)})
    gains = torch.cat([m.weight_gain * 2.0**-m.weight_frac_bits for m in shared[0].matrices])
    torch.testing.assert_close(gains, torch.full((6,), 2.0 / 31))


def test_weights_beyond_the_full_scale_clip() -> None:
    weight = torch.tensor([[0.5, 2.0]])
    arch = ARCH.replace(weight_scale="tensor")
    matrix = CrossbarMatrix(weight, arch, IdealEmulator(), inputs=1.0, weight_full_scale=1.0)
    found = matrix(torch.eye(2))[:, 0]
    torch.testing.assert_close(found, torch.tensor([0.5, 1.0]), rtol=0, atol=0.04)


def test_the_scale_is_saved_and_kept_in_training(tmp_path: Any) -> None:
    net, scales = cut_network()
    model = convert(net, ARCH, IdealEmulator(), calibration=IMAGES, per_layer=rules(scales), trainable=True)
    save_converted(model, tmp_path / "net")
    again = load_converted(tmp_path / "net", net)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert again[3].matrix.weight_frac_bits == model[3].matrix.weight_frac_bits
    with torch.no_grad():
        again[3].matrix.weight.mul_(100)
    again[3].matrix.clip_weight()
    assert again[3].matrix.weight.abs().max() <= 31 * 2.0 ** -model[3].matrix.weight_frac_bits
    assert again[3].matrix.weight.abs().max() > 0.5 * scales["3"]


@pytest.mark.parametrize(
    ("name", "cut"),
    [("cut", 0.0), ("cut", 1.1), ("cut", float("nan")), ("cut", {"9": 0.1}), ("cut['0']", {"0": -0.1})],
)
def test_wrong_cuts_are_told(name: str, cut: Any) -> None:
    with pytest.raises(InputError) as told:
        weight_cut(cut_network()[0], cut)
    assert told.value.name == name


def test_cuts_are_shares_or_values() -> None:
    net, _ = cut_network(1.0)
    scales = weight_full_scales(net)
    assert weight_cut(net, 0.25).limits == {f"{name}.weight": 0.25 * scale for name, scale in scales.items()}
    assert weight_cut(net, {"3": 0.125}).limits == {"3.weight": 0.125}
    with pytest.raises(InputError, match="no linear layer"):
        weight_cut(nn.ReLU(), 0.5)


@pytest.mark.parametrize(
    ("arch", "scale", "told"),
    [
        ({}, (1.0,) * 4, "outputs share a scale"),
        ({"weight_scale": "channel"}, (1.0,) * 3, "each of the 4"),
        ({"weight_frac_bits": 4}, 1.0, "weight_frac_bits=4"),
    ],
)
def test_scales_that_do_not_fit_are_told(arch: dict, scale: Any, told: str) -> None:
    net, _ = cut_network()
    with pytest.raises((InputError, ConversionError), match=told):
        convert(
            net,
            ARCH.replace(**arch),
            IdealEmulator(),
            calibration=IMAGES,
            per_layer={"3": LayerRule(weight_full_scale=scale)},
        )


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), "1", (), (1.0, 0.0)])
def test_what_is_no_scale_is_told(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"LayerRule\.weight_full_scale"):
        LayerRule(weight_full_scale=wrong)
