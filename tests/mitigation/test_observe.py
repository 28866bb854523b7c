"""What layers see and what the loss makes of it, beside plain autograd; being watched changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mitigation_cases import EMULATORS, FINE, NETWORKS, batch, converted, float_network, mlp, scattered
from torch import Tensor, nn
from torch.nn import functional

from geniex.errors import InputError
from geniex.mapping import im2col
from geniex.mitigation import Batch, remap
from geniex.mitigation.remap.observe import add_hooks, compute_losses, compute_mean_loss, observe
from geniex.simulator import convert, find_crossbar_layers


def vectors(x: Tensor, images: int) -> Tensor:
    """(images, vectors, channels) of a layer's output."""
    return x.reshape(images, 1, -1) if x.dim() == 2 else x.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("gains", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_outputs_and_gradients_are_those_of_the_float_network(name: str, gains: bool) -> None:
    model = converted(name, "ideal", FINE)
    model = scattered(model) if gains else model
    plain, data = float_network(name, model), batch(name)
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def kept(layer: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
            y.retain_grad()
            calls.setdefault(layer, []).append((args[0].detach(), y))
            return y.clone()

        return hook

    layers = find_crossbar_layers(model)
    with add_hooks((plain.get_submodule(layer), kept(layer)) for layer in layers):
        functional.cross_entropy(plain(data.images.double()), data.labels, reduction="sum").backward()
    found = observe(model, data)
    assert list(found) == list(layers)
    for layer, seen in found.items():
        count = len(data.images)
        inputs = [
            x[:, None] if x.dim() == 2 else im2col(x, layers[layer].geometry)[0]  # type: ignore[arg-type]
            for x, _ in calls[layer]
        ]
        expected = {
            "inputs": torch.cat(inputs, 1),
            "outputs": torch.cat([vectors(y.detach(), count) for _, y in calls[layer]], 1),
            "gradients": torch.cat([vectors(y.grad, count) for _, y in calls[layer]], 1),  # type: ignore[arg-type]
        }
        for part, wanted in expected.items():
            given = getattr(seen, part)
            assert given.shape == wanted.shape, (layer, part)
            # Float32, and inputs of 17 fraction bits.
            assert (given - wanted).abs().max() < 1e-4 * wanted.abs().max(), (layer, part)


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_each_gradient_is_of_its_own_image(name: str) -> None:
    model, data = converted(name), batch(name, 4)
    whole = observe(model, data)
    for k, alone in enumerate(data.parts(1)):
        for layer, seen in observe(model, alone).items():
            torch.testing.assert_close(seen.gradients[0], whole[layer].gradients[k], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(seen.outputs[0], whole[layer].outputs[k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trainable", [False, True])
def test_watching_changes_nothing(trainable: bool) -> None:
    model, data = converted("resnet", trainable=trainable), batch("resnet")
    model.head.bias.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    before = model(data.images)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    observe(model, data)
    assert torch.equal(model(data.images), before)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_parameters_and_hooks_come_back_after_an_error() -> None:
    model = converted("mlp", trainable=True)
    with pytest.raises(InputError):
        observe(model, Batch(torch.rand(2, 8), torch.zeros(2, dtype=torch.int64)))  # an input too few
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_it_works_where_no_gradients_are_wanted() -> None:
    model, data = converted("mlp"), batch("mlp")
    with torch.no_grad():
        seen = observe(model, data)["0"]
    assert seen.gradients.abs().sum() > 0
    assert not seen.outputs.requires_grad


def test_named_layers_alone() -> None:
    model, data = converted("mlp"), batch("mlp")
    assert list(observe(model, data, ["4", "2"])) == ["4", "2"]
    torch.testing.assert_close(observe(model, data, ["4"])["4"].gradients, observe(model, data)["4"].gradients)


class Aside(nn.Module):
    """One layer's output is not used, another one is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.absent = nn.Linear(9, 4), nn.Linear(9, 5), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        return self.used(x) if self.used.bias is not None else self.absent(x)


def test_outputs_that_the_loss_does_not_see_have_no_gradient() -> None:
    data = batch("mlp")
    model = convert(Aside(), FINE, EMULATORS["ideal"])
    found = observe(model, data)
    assert list(found) == ["used", "unused"], "one is never called"
    assert found["unused"].gradients.shape == (12, 1, 5)
    assert not found["unused"].gradients.any()
    assert observe(model, data, ["unused"])["unused"].outputs.abs().sum() > 0, "nothing to differentiate at all"


def test_in_place_activations_do_not_reach_what_is_kept() -> None:
    """The same network but for its activations' writing over their inputs."""
    torch.manual_seed(0)
    inplace, data = mlp().eval(), batch("mlp")
    apart = copy.deepcopy(inplace)
    apart[1] = nn.ReLU()
    one, other = (
        observe(convert(m, FINE, EMULATORS["linear"], calibration=data.images), data) for m in (inplace, apart)
    )
    for name, seen in one.items():
        for part in ("inputs", "outputs", "gradients"):
            assert torch.equal(getattr(seen, part), getattr(other[name], part)), (name, part)
    assert one["0"].outputs.min() < 0


class Overwritten(nn.Module):
    """A layer whose input is written over after it was read."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0
        y = self.layer(x)
        x.zero_()
        return y


def test_inputs_are_kept_as_they_were_read() -> None:
    data = batch("mlp")
    seen = observe(convert(Overwritten(), FINE, EMULATORS["ideal"], calibration=data.images), data)
    assert torch.equal(seen["layer"].inputs[:, 0], data.images)


def test_losses_are_cross_entropies_of_any_number_of_images() -> None:
    model, data = converted("vgg"), batch("vgg", 70)
    with torch.no_grad():
        logits = model(data.images).double()
    expected = logits.logsumexp(1) - logits[torch.arange(70), data.labels]
    torch.testing.assert_close(compute_losses(model, data).double(), expected, rtol=1e-5, atol=1e-6)
    assert compute_mean_loss(model, data) == pytest.approx(float(expected.mean()), rel=1e-5)


def test_parts_of_a_batch() -> None:
    data = batch("mlp", 70)
    parts = list(data.parts())
    assert [len(p.images) for p in parts] == [64, 6]
    assert torch.equal(torch.cat([p.images for p in parts]), data.images)
    assert torch.equal(torch.cat([p.labels for p in parts]), data.labels)
    assert Batch.of(data) is data
    pair = Batch.of((data.images, data.labels))
    assert pair.images is data.images
    assert torch.equal(pair.labels, data.labels)


IMAGES, LABELS = torch.rand(3, 9), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            (IMAGES, LABELS[:2]),
            r"images and labels \(3, 9\) and \(2,\); there must be at least one image and one label",
        ),
        ((IMAGES[:0], LABELS[:0]), r"images and labels \(0, 9\) and \(0,\); there must be at least one"),
        ((IMAGES, LABELS.float()), r"images and labels \(3, 9\) and \(3,\)"),
        ((IMAGES, LABELS[:, None]), r"images and labels \(3, 9\) and \(3, 1\)"),
        ((IMAGES.numpy(), LABELS), r"images and labels \(3, 9\)"),
        (IMAGES, r"got a batch without labels \(float32 \(3, 9\)\); it must be one batch with labels"),
        (None, r"got a NoneType; it must be"),
        (
            [(IMAGES, LABELS), (IMAGES[:, :8], LABELS)],
            r"got 2 batches of different shapes; all batches must fit into one",
        ),
    ],
)
def test_a_batch_says_what_it_must_be(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"^calibration: got .*{said.removeprefix('got ')}"):
        Batch.of(given)


class TwoInputs(nn.Module):
    """A classifier of two inputs, whose layer is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.head(self.layer(input=x).relu() * scale)


def test_models_of_several_inputs_are_remapped_by_data_in_any_form() -> None:
    torch.manual_seed(0)
    x, scale, labels = torch.rand(8, 9), torch.rand(8, 1), torch.arange(8) % 4
    mapping = {"x": x, "scale": scale, "labels": labels}
    model = convert(TwoInputs(), FINE, EMULATORS["linear"], calibration=mapping)
    halves = [(x[:5], scale[:5], labels[:5]), (x[5:], scale[5:], labels[5:])]
    with torch.no_grad():
        before = model(x, scale)
    found = []
    for data in (x, scale, labels), mapping, ((x, scale), labels), halves, [[(x, scale), labels]]:
        batch = Batch.of(data, model)
        assert len(batch.images) == 8
        assert compute_mean_loss(model, batch) == pytest.approx(
            float(functional.cross_entropy(before, labels)), rel=1e-6
        )
        remapped = remap(model, "srs_taylor", data).model
        found.append(remapped.layer.matrix.layout.arrangement.outputs.tolist())
    assert found == found[:1] * len(found)
    assert found[0] != sorted(found[0])
    seen = observe(model, Batch.of(mapping, model))
    assert torch.equal(seen["layer"].inputs[:, 0], x)


def test_a_layers_own_output_is_observed_where_it_has_hooks() -> None:
    data, model = batch("mlp"), converted("mlp")
    plain = observe(model, data)["4"]
    model[4].register_forward_hook(lambda layer, args, output: 2 * output)
    assert torch.equal(observe(model, data)["4"].outputs, plain.outputs)
