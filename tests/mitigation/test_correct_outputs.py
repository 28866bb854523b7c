"""Gains and offsets beside least squares, batch norms beside statistics by hand; what is corrected runs anywhere."""

from __future__ import annotations

import copy
from typing import Any, get_args

import numpy as np
import pytest
import torch
from mitigation_cases import (
    ARCH,
    EMULATORS,
    FINE,
    NETWORKS,
    WIRED,
    batch,
    converted,
    float_network,
    mlp,
    network,
    scattered,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.emulator import LinearEmulator
from geniex.errors import InputError
from geniex.mapping import Arrangement
from geniex.mitigation import Correction, Remapping, correct_outputs, refit_batch_norm, remap
from geniex.mitigation.remap.observe import add_hooks
from geniex.simulator import (
    CrossbarLayer,
    convert,
    find_crossbar_layers,
    find_crossbar_matrices,
    replace_by_ideal,
    vary,
)
from geniex.variation import ConductanceSpread, Variations

MODES = get_args(Correction)
CLEAR = ARCH.replace(adc_bits=None, accumulator_bits=None)
"""Converters that pass on what wires take."""


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> dict[str, list[Tensor]]:
    """What each crossbar layer gives at each call (vectors, outputs), float64."""
    seen: dict[str, list[Tensor]] = {}

    def kept(name: str) -> Any:
        def hook(layer: CrossbarLayer, args: tuple[Tensor, ...], y: Tensor) -> None:
            channels_last = y if y.dim() == 2 else y.movedim(1, -1)
            seen.setdefault(name, []).append(channels_last.reshape(-1, channels_last.shape[-1]).double().clone())

        return hook

    with add_hooks((layer, kept(name)) for name, layer in find_crossbar_layers(model).items()):
        model(images)
    return seen


@torch.no_grad()
def own_outputs(model: nn.Module, at: str, wanted: list[Tensor], images: Tensor) -> Tensor:
    """What one layer gives at all its calls, where each call is followed by what is ``wanted`` of it."""
    seen: list[Tensor] = []

    def called(layer: CrossbarLayer, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        seen.append(layer.output_vectors(y).double().clone())
        return wanted[len(seen) - 1].to(y) if len(wanted) > 1 else y

    with add_hooks([(find_crossbar_layers(model)[at], called)]):
        model(images)
    return torch.cat(seen)


def bias_of(layer: CrossbarLayer) -> Tensor:
    return torch.zeros(()) if layer.bias is None else layer.bias.detach().double()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_gains_and_offsets_are_least_squares_of_each_output(name: str, mode: Correction) -> None:
    """Layer by layer, with what the corrected layers before it give; by NumPy, one output at a time."""
    data = batch(name, 20)
    model = converted(name, "linear", CLEAR)
    fitted = correct_outputs(model, data.images, mode=mode)
    wanted = outputs(replace_by_ideal(model), data.images)
    for at, layer in find_crossbar_layers(fitted).items():
        assert layer.output_gain is not None
        # The model as far as it was corrected when this layer's turn came.
        uncorrected = copy.deepcopy(fitted)
        natural = find_crossbar_layers(model)[at]
        find_crossbar_layers(uncorrected)[at].output_gain = None
        find_crossbar_layers(uncorrected)[at].bias = copy.deepcopy(natural.bias)
        given = own_outputs(uncorrected, at, wanted[at], data.images) - bias_of(natural)
        target = torch.cat(wanted[at]) - bias_of(natural)
        gains, offsets = layer.output_gain.double(), bias_of(layer) - bias_of(natural)
        assert layer.bias is not None
        if mode == "one_factor":
            best = np.linalg.lstsq(given.reshape(-1, 1).numpy(), target.reshape(-1).numpy(), rcond=None)[0]
            np.testing.assert_allclose(gains, best.repeat(len(gains)), rtol=1e-3)
            assert not offsets.any()
            continue
        with_offset = mode == "gains_and_offsets"
        for k in range(given.shape[1]):
            if not given[:, k].any():  # dead, behind an activation
                assert float(gains[k]) == 1.0
                assert float(offsets[k]) == pytest.approx(float(target[:, k].mean()) if with_offset else 0.0, abs=1e-6)
                continue
            columns = [given[:, k], torch.ones_like(given[:, k])][: 1 + with_offset]
            best = np.linalg.lstsq(torch.stack(columns, 1).numpy(), target[:, k].numpy(), rcond=None)[0]
            scale = float(target[:, k].abs().max()) + 1e-3
            assert float(gains[k]) == pytest.approx(best[0], rel=1e-3, abs=1e-4), (at, k)
            assert float(offsets[k]) == pytest.approx(best[1] if with_offset else 0.0, abs=1e-4 * scale + 1e-6), (at, k)
        assert (gains - 1).abs().max() > 0.003, "wires must cost something"


@pytest.mark.parametrize("name", NETWORKS)
def test_errors_fall(name: str) -> None:
    data = batch(name, 20)
    model = converted(name, "linear", CLEAR)
    with torch.no_grad():
        wanted, before = replace_by_ideal(model)(data.images), model(data.images)
        errors = [(correct_outputs(model, data.images, mode=m)(data.images) - wanted).norm() for m in MODES]
        assert errors[0] < errors[1] < (before - wanted).norm() > errors[2]
        assert errors[0] < (0.8 if name == "repeated" else 0.6) * (before - wanted).norm()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_ideal_crossbars_need_no_correction(name: str, mode: Correction) -> None:
    data = batch(name)
    model = converted(name, "ideal")
    fitted = correct_outputs(model, data.images, mode=mode)
    for one, other in zip(*(find_crossbar_layers(m).values() for m in (model, fitted)), strict=True):
        assert torch.equal(other.output_gain, torch.ones_like(other.output_gain))  # type: ignore[arg-type]
        assert torch.equal(other.bias, bias_of(one).float().expand_as(other.bias))  # type: ignore[arg-type]
    assert torch.equal(fitted(data.images), model(data.images))


def test_an_output_that_does_not_vary_gets_an_offset_alone() -> None:
    """A dead one, and one that the same inputs always reach."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 3)
    with torch.no_grad():
        layer.weight[1] = 0
    images = torch.rand(1, 8).repeat(6, 1)
    model = convert(nn.Sequential(layer), CLEAR, LinearEmulator(WIRED), calibration=images)
    found = find_crossbar_layers(correct_outputs(model, images))["0"]
    assert torch.equal(found.output_gain, torch.ones(3))  # type: ignore[arg-type]
    lost = (replace_by_ideal(model)(images) - model(images))[0].detach()
    torch.testing.assert_close(found.bias.detach() - layer.bias.detach(), lost, rtol=1e-4, atol=1e-6)  # type: ignore[union-attr]
    assert lost.abs().max() > 1e-4
    scaled = find_crossbar_layers(correct_outputs(model, images, mode="gains"))["0"]
    assert scaled.output_gain is not None
    assert scaled.output_gain[1] == 1
    assert scaled.output_gain[0] != 1
    assert torch.equal(scaled.bias, layer.bias)  # type: ignore[arg-type]


def test_in_place_activations_do_not_change_the_fit() -> None:
    torch.manual_seed(0)
    inplace, data = mlp().eval(), batch("mlp", 20)
    apart = copy.deepcopy(inplace)
    apart[1] = nn.ReLU()
    one, other = (
        correct_outputs(convert(m, CLEAR, EMULATORS["linear"], calibration=data.images), data.images).state_dict()
        for m in (inplace, apart)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("trainable", [False, True])
def test_the_original_is_untouched_and_the_copy_its_own(trainable: bool) -> None:
    data = batch("vgg")
    model = converted("vgg", "linear", CLEAR, trainable=trainable)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        before = model(data.images)
    for change in (correct_outputs, refit_batch_norm):
        made = change(model, data.images)
        assert made is not model
        assert not any(module._forward_hooks for module in made.modules())
        assert not any(module.training for module in made.modules())
        with torch.no_grad():
            assert not torch.equal(made(data.images), before)
            for tensor in (*made.parameters(), *made.buffers()):
                tensor.zero_()
            assert torch.equal(model(data.images), before)
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert all(layer.output_gain is None for layer in find_crossbar_layers(model).values())
    assert all(p.requires_grad == trainable for p in model.parameters())


@pytest.mark.parametrize("way", ["random", "assignment"])
def test_remapped_models_are_corrected_and_corrected_ones_remapped(way: str) -> None:
    data = batch("mlp", 20)
    model = converted("mlp", "linear", CLEAR)
    told = Remapping(places=3) if way == "assignment" else way
    moved = remap(model, told, data).model
    fitted = correct_outputs(moved, data.images)
    with torch.no_grad():
        wanted = replace_by_ideal(model)(data.images)
        assert (fitted(data.images) - wanted).norm() < (moved(data.images) - wanted).norm()
    for one, other in zip(*(find_crossbar_matrices(m).values() for m in (moved, fitted)), strict=True):
        assert one.layout.arrangement == other.layout.arrangement
    ideal = replace_by_ideal(fitted)
    again = remap(ideal, told, data).model
    assert torch.equal(again(data.images), ideal(data.images)), "the law holds with gains"


def test_varied_crossbars_are_fitted_to_what_was_asked_for_without_wires() -> None:
    data, plain = batch("mlp", 20), converted("mlp", "linear", CLEAR)
    model = vary(plain, Variations((ConductanceSpread(0.3),)))
    with torch.no_grad():
        found = correct_outputs(model, data.images)(data.images)
        wanted = replace_by_ideal(plain)(data.images)
        assert (found - wanted).norm() < (model(data.images) - wanted).norm()


# Batch norms


@torch.no_grad()
def statistics_by_hand(model: Any, images: Tensor) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Means and unbiased variances of a VGG's batch norms, module after module, each in force for what follows."""
    found, x = {}, images
    for name, module in model.named_children():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            x = module(x)
            continue
        channels = x.movedim(1, -1).reshape(-1, x.shape[1]).double().numpy()
        mean, count = channels.mean(0), len(channels)
        found[name] = mean, ((channels - mean) ** 2).sum(0) / (count - 1)
        spread = found[name][1]
        shape = (1, -1, *[1] * (x.dim() - 2))
        centred = x.double() - torch.from_numpy(mean).reshape(shape)
        centred = centred / torch.from_numpy(spread + module.eps).sqrt().reshape(shape)
        x = (centred * module.weight.reshape(shape) + module.bias.reshape(shape)).float()
    return found


@pytest.mark.parametrize("emulator", ["ideal", "linear"])
@pytest.mark.parametrize("count", [2, 12, 70])
def test_batch_norms_have_the_means_and_variances_of_the_images(count: int, emulator: str) -> None:
    images = batch("vgg", count).images
    model = converted("vgg", emulator, FINE)
    refitted = refit_batch_norm(model, images)
    expected = statistics_by_hand(model, images)
    assert list(expected) == ["1", "5", "9"]
    for name, (mean, variance) in expected.items():
        norm = refitted.get_submodule(name)
        np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(norm.running_var, variance, rtol=1e-2, atol=1e-4)
        before = model.get_submodule(name)
        assert torch.equal(norm.weight, before.weight)
        assert torch.equal(norm.bias, before.bias)
        assert not torch.allclose(norm.running_mean, before.running_mean, rtol=0.01)
        assert (norm.training, norm.momentum) == (False, before.momentum)
        assert int(norm.num_batches_tracked) == 1
    assert not any(module.training for module in refitted.modules())


@pytest.mark.slow
def test_every_refitted_norm_sees_its_own_statistics_however_the_images_are_cut() -> None:
    images = batch("resnet", 12).images
    model = converted("resnet", "linear", FINE)
    whole = refit_batch_norm(model, images)
    seen: dict[str, list[Tensor]] = {}
    norms = {name: m for name, m in whole.named_modules() if isinstance(m, nn.BatchNorm2d)}
    handles = [
        m.register_forward_pre_hook(lambda m, args, name=name: seen.setdefault(name, []).append(args[0].double()))
        for name, m in norms.items()
    ]
    whole(images)
    for name, norm in norms.items():
        values = seen[name][0].transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.running_mean.double(), values.mean(1), rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]
        torch.testing.assert_close(norm.running_var.double(), values.var(1), rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]
    for handle in handles:
        handle.remove()
    for cut in (list(images.split(5)), (x for x in images.split(1)), lambda m: [m(x) for x in images.split(7)]):
        parts = refit_batch_norm(model, cut)
        for name, norm in norms.items():
            other: Any = parts.get_submodule(name)
            torch.testing.assert_close(other.running_mean, norm.running_mean, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(other.running_var, norm.running_var, rtol=1e-3, atol=1e-4)


def test_a_norm_that_is_not_called_keeps_its_statistics() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.BatchNorm1d(9), nn.BatchNorm1d(9)
            assert self.idle.running_mean is not None
            self.idle.running_mean.fill_(3.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    refitted: Any = refit_batch_norm(Idle().eval(), torch.rand(5, 9))
    assert bool((refitted.idle.running_mean == 3).all())
    assert bool((refitted.used.running_mean > 0).all())


def test_refitting_again_changes_nothing_and_float_networks_are_refitted_too() -> None:
    images = batch("resnet", 12).images
    model = converted("resnet", "ideal", FINE)
    once = refit_batch_norm(model, images)
    twice = refit_batch_norm(once, images)
    plain = refit_batch_norm(float_network("resnet", model), images.double())
    for name, norm in once.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert torch.equal(twice.get_submodule(name).running_mean, norm.running_mean)  # type: ignore[arg-type]
            given, wanted = norm.running_var, plain.get_submodule(name).running_var
            torch.testing.assert_close(given.double(), wanted, rtol=1e-3, atol=1e-5)  # type: ignore[union-attr]


def test_other_modules_stay_in_evaluation_mode_and_norms_in_the_mode_they_were_in() -> None:
    seen: list[bool] = []
    model: Any = nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4, momentum=0.3), nn.Dropout(0.9)).eval()
    model[1].train()
    model[2].register_forward_hook(lambda module, args, y: seen.append(torch.equal(y, args[0])))
    refitted: Any = refit_batch_norm(model, torch.rand(5, 9))
    assert seen == [True], "nothing is dropped"
    assert (refitted[1].training, refitted[1].momentum) == (True, 0.3)
    assert not refitted[2].training


def test_norms_without_running_statistics_are_left_alone() -> None:
    both = nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.BatchNorm1d(4)).eval()
    refitted: Any = refit_batch_norm(both, torch.rand(5, 9))
    assert refitted[1].running_mean is None
    assert refitted[2].running_mean.abs().max() < 1e-5, "after a norm by the batch"


# What it cannot do


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (torch.rand(0, 9), r"data: got (no vector|one value|a batch without an example)"),
        ([], r"data: got (a )?list"),
        (lambda model: None, r"data: got function; it must give the model at least one batch of inputs"),
        (None, r"data: got NoneType; it must give the model at least one batch of inputs"),
    ],
)
def test_data_are_checked(data: Any, said: str) -> None:
    for change, model in ((correct_outputs, converted("mlp")), (refit_batch_norm, nn.BatchNorm1d(9))):
        with pytest.raises(InputError, match=rf"^{said}"):
            change(model, data)


def test_what_cannot_be_run_is_told_by_the_arguments_name() -> None:
    for change, model in ((correct_outputs, converted("mlp")), (refit_batch_norm, nn.BatchNorm1d(9))):
        with pytest.raises(InputError, match=r"^data: got "):
            change(model, ["images"])  # type: ignore[operator]


def test_says_what_it_cannot_do() -> None:
    images = batch("mlp").images
    with pytest.raises(InputError, match=r"^model: got Sequential; it has no layer on crossbars: give a model"):
        correct_outputs(network("mlp"), images)
    once = correct_outputs(converted("mlp"), images)
    with pytest.raises(
        InputError, match=r"^model: got layer '0', corrected before; correct the model from before that correction"
    ):
        correct_outputs(once, images)
    with pytest.raises(InputError, match=r"^mode: got 'gain'; modes are 'gains_and_offsets', 'gains', 'one_factor'"):
        correct_outputs(converted("mlp"), images, mode="gain")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^data: got outputs of layer '0' that are not finite"):
        correct_outputs(converted("mlp", arch=CLEAR), images, reference=spoilt(network("mlp")))
    with pytest.raises(InputError, match=r"^model: got no batch norm with running statistics; convert the network"):
        refit_batch_norm(converted("mlp"), images)
    bare = nn.Sequential(nn.BatchNorm1d(9, track_running_stats=False))
    with pytest.raises(InputError, match=r"^model: got no batch norm with running statistics"):
        refit_batch_norm(bare, images)
    with pytest.raises(InputError, match=r"^data: got one value for each channel of ''; variances need at least two"):
        refit_batch_norm(nn.BatchNorm1d(9), images[:1])


def spoilt(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.nan
    return model


# On another device


def onto_fake_cuda(model: nn.Module, mode: FakeTensorMode) -> Any:
    """A copy whose tensors have no values and are on a device that is not there."""
    copied = copy.deepcopy(model)
    with mode:
        return copied.cuda()


@pytest.mark.slow
@pytest.mark.parametrize("emulator", ["ideal", "read", "linear", "physics"])
@pytest.mark.parametrize("way", ["random", "assignment_mdm", "wagonn"])
def test_remapped_and_calibrated_models_keep_to_one_device(way: str, emulator: str) -> None:
    data = batch("vgg", 4)
    model = remap(converted("vgg", emulator), way, data).model
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for made in (model, correct_outputs(model, data.images), refit_batch_norm(model, data.images)):
        fake = onto_fake_cuda(made, mode)
        assert any(m.layout.arrangement.natural is False for m in find_crossbar_matrices(fake).values())
        with mode:
            out = fake(torch.empty(3, 2, 6, 6, device="cuda"))
        assert (out.shape, out.device.type, out.dtype) == ((3, 4), "cuda", torch.float32)


def test_gains_move_with_the_model() -> None:
    data = batch("mlp")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = onto_fake_cuda(scattered(converted("mlp")), mode)
    for layer in find_crossbar_layers(fake).values():
        assert layer.output_gain.device.type == layer.bias.device.type == "cuda"  # type: ignore[union-attr]
    assert Arrangement() == find_crossbar_matrices(fake)["0.matrices.0"].layout.arrangement
    assert data.images.device.type == "cpu"
