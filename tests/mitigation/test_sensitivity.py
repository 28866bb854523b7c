"""Measures of how much outputs matter, beside plain torch on float networks with the weights that crossbars hold."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from mitigation_cases import (
    EMULATORS,
    FINE,
    NETWORKS,
    batch,
    converted,
    float_network,
    grouped,
    matrices,
    scattered,
)
from torch import Tensor, nn
from torch.nn import functional

from geniex.errors import InputError
from geniex.mapping import Arrangement
from geniex.mitigation import Batch, sensitivity
from geniex.mitigation.remap.observe import observe
from geniex.mitigation.remap.sensitivity import MEASURES
from geniex.simulator import convert, find_crossbar_layers, replace_by_ideal

LONG = 70
"""More images than are observed at once."""


def mean_loss(plain: nn.Module, data: Batch) -> Tensor:
    return functional.cross_entropy(plain(data.images.double()), data.labels)


def by_output(weight: Tensor) -> Tensor:
    """Sums over what belongs to one output."""
    return weight.detach().flatten(1).sum(1)


@pytest.mark.parametrize("gains", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_taylor_is_that_of_the_float_network(name: str, gains: bool) -> None:
    model = converted(name, "ideal", FINE)
    model = scattered(model) if gains else model
    plain, data = float_network(name, model), batch(name, LONG)
    mean_loss(plain, data).backward()
    scores = sensitivity(model, "taylor", data)
    assert list(scores) == list(find_crossbar_layers(model))
    for layer, given in scores.items():
        weight = plain.get_submodule(layer).weight
        assert given.dtype == torch.float64
        torch.testing.assert_close(given, by_output((weight * weight.grad).abs()), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("gains", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_leave_one_out_is_the_loss_without_an_outputs_weights(name: str, gains: bool) -> None:
    model = converted(name, "ideal", FINE)
    model = scattered(model) if gains else model
    plain, data = float_network(name, model), batch(name)
    scores = sensitivity(model, "leave_one_out", data)
    with torch.no_grad():
        before = mean_loss(plain, data)
        for layer, given in scores.items():
            weight = plain.get_submodule(layer).weight
            assert given.shape == weight.shape[:1]
            for output in range(len(weight)):
                kept = weight[output].clone()
                weight[output] = 0
                rise = mean_loss(plain, data) - before
                weight[output] = kept
                assert float(given[output]) == pytest.approx(float(rise), abs=5e-5), (layer, output)
    assert max(given.abs().max() for given in scores.values()) > 0.02


@pytest.mark.parametrize("name", NETWORKS)
def test_l1_sums_the_weights_that_are_programmed(name: str) -> None:
    model = converted(name, "linear")
    plain = float_network(name, model)
    for layer, given in sensitivity(model, "l1", batch(name)).items():
        # Weights are whole multiples of 2^-frac_bits, which the conductances hold up to float32's rounding.
        torch.testing.assert_close(given, by_output(plain.get_submodule(layer).weight.abs()), rtol=1e-4, atol=1e-6)


def moved_around(matrix: Any, places: int) -> list[Any]:
    """Copies of a matrix with the outputs of every tile so many places further on, by hand."""
    count, per_tile = matrix.layout.outputs, matrix.architecture.outputs_per_tile
    fitting = min(count, per_tile)
    found = []
    for k in range(min(places, fitting)):
        by, order = round(k * fitting / min(places, fitting)), [0] * count
        for output in range(count):
            first = output // per_tile * per_tile
            size = min(per_tile, count - first)
            order[first + (output - first + by) % size] = output
        found.append(copy.deepcopy(matrix))
        found[-1].arrange(Arrangement.of(outputs=order))
    return found


@torch.no_grad()
def errors_by_place(model: nn.Module, layer: str, fields: Tensor, places: int) -> list[Tensor]:
    """Errors (places, vectors, outputs) of each matrix."""
    crossbars, found = find_crossbar_layers(model)[layer], []
    ideal = find_crossbar_layers(replace_by_ideal(model))[layer]
    for k, matrix in enumerate(matrices(crossbars)):
        seen = crossbars.packing.split(fields)[k]
        found.append(torch.stack([m(seen) - matrices(ideal)[k](seen) for m in moved_around(matrix, places)]).double())
    return found


@pytest.mark.parametrize("gains", [False, True])
@pytest.mark.parametrize("name", ["grouped", "mlp", "repeated"])
def test_gradient_variance_is_mean_square_gradient_times_variance_of_the_error(name: str, gains: bool) -> None:
    model = converted(name, "linear", FINE)
    model = scattered(model) if gains else model
    data = batch(name, LONG)
    scores = sensitivity(model, "gradient_variance", data)
    seen = observe(model, data)
    for layer, given in scores.items():
        errors = torch.cat(errors_by_place(model, layer, seen[layer].inputs.flatten(0, 1), 4), -1)
        gain = find_crossbar_layers(model)[layer].output_gain
        errors = errors if gain is None else errors * gain.double()
        gradient = seen[layer].gradients.double().square().mean((0, 1))
        variance = errors.flatten(0, 1).var(0, unbiased=False)
        assert given.max() > 0
        torch.testing.assert_close(given, gradient * variance, rtol=1e-3, atol=1e-3 * float(given.max()))


def test_gradient_variance_takes_errors_of_the_arrays_and_gradients_of_the_model() -> None:
    model, data = converted("mlp", "linear", FINE), batch("mlp")
    clean = replace_by_ideal(model)
    assert not sensitivity(clean, "gradient_variance", data)["0"].any(), "ideal crossbars do not err"
    mixed, own = (sensitivity(m, "gradient_variance", data, arrays=model)["0"] for m in (clean, model))
    inputs = observe(clean, data)["0"].inputs.flatten(0, 1)
    variance = torch.cat(errors_by_place(model, "0", inputs, 4), -1).flatten(0, 1).var(0, unbiased=False)
    gradient = observe(clean, data)["0"].gradients.double().square().mean((0, 1))
    torch.testing.assert_close(mixed, gradient * variance, rtol=1e-3, atol=1e-3 * float(mixed.max()))
    assert not torch.allclose(mixed, own, rtol=0.01)


@pytest.mark.parametrize("gains", [False, True])
@pytest.mark.parametrize("name", ["grouped", "mlp"])
def test_displacement_is_the_slope_of_the_expected_loss_over_the_places(name: str, gains: bool) -> None:
    """On tiles of four outputs, all of whose places are read."""
    arch = FINE.replace(weight_bits=9)  # three slices
    assert arch.outputs_per_tile == 4
    model = converted(name, "linear", arch)
    model = scattered(model) if gains else model
    data = batch(name)
    clean = replace_by_ideal(model)
    scores, seen = sensitivity(clean, "displacement", data, arrays=model), observe(clean, data)
    for layer, given in scores.items():
        slopes, first = [], 0
        gain = find_crossbar_layers(model)[layer].output_gain
        for errors in errors_by_place(model, layer, seen[layer].inputs, 4):
            places, outputs = len(errors), errors.shape[-1]
            gradients = seen[layer].gradients[..., first : first + outputs].double()
            if gain is not None:
                gradients = gradients * gain[first : first + outputs].double()
            d = (errors * gradients).sum(2).numpy()  # (moves, images, outputs)
            for output in range(outputs):
                size = min(4, outputs - output // 4 * 4)
                near = [(output % 4 + k) % size for k in range(places)]
                if len(set(near)) == 1:  # alone on its tile
                    slopes.append(0.0)
                    continue
                on_line = np.stack([np.polyval(np.polyfit(near, x, 1), range(places)) for x in d[..., output].T])
                cost = (on_line + on_line**2 / 2).mean(0)
                slopes.append(np.polyfit(np.linspace(-0.5, 0.5, places), cost, 1)[0])
            first += outputs
        expected = torch.tensor(slopes, dtype=torch.float64)
        scale = 1e-3 * float(given.abs().max()) + 1e-9
        torch.testing.assert_close(given, expected, rtol=1e-3, atol=scale)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_model_on_ideal_crossbars_scores_as_its_clean_copy(measure: str) -> None:
    model, data = converted("grouped", "ideal"), batch("grouped")
    one, other = sensitivity(model, measure, data), sensitivity(replace_by_ideal(converted("grouped")), measure, data)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("measure", MEASURES)
def test_scores_do_not_depend_on_what_else_is_asked_for(measure: str) -> None:
    model, data = converted("vgg", "linear"), batch("vgg", 4)
    whole = sensitivity(model, measure, data)
    for name in ("8", "0"):
        alone = sensitivity(model, measure, data, layers=(name,))
        assert list(alone) == [name]
        torch.testing.assert_close(alone[name], whole[name], rtol=1e-5, atol=1e-9)


def test_random_scores_come_from_the_seed_and_the_layers_name_alone() -> None:
    model, data = converted("vgg", "linear"), batch("vgg", 4)
    whole = sensitivity(model, "random", data, seed=3)
    assert {name: len(scores) for name, scores in whole.items()} == {"0": 5, "4": 9, "8": 8, "11": 4}
    assert all(bool(((scores >= 0) & (scores < 1)).all()) for scores in whole.values())
    alone = sensitivity(replace_by_ideal(model), "random", batch("vgg", 7), seed=3, layers=("8", "4"))
    assert list(alone) == ["8", "4"]
    assert all(torch.equal(alone[name], whole[name]) for name in alone)
    assert not torch.equal(sensitivity(model, "random", data, seed=4)["0"], whole["0"])
    assert not torch.equal(whole["8"][:5], whole["0"]), "each layer has draws of its own"


def test_a_measure_of_ones_own() -> None:
    model, data = converted("mlp"), batch("mlp")
    clean = replace_by_ideal(model)
    told: list[Any] = []

    def measure(*args: Any) -> dict[str, Tensor]:
        told.extend(args)
        return {"0": torch.arange(17.0)}

    found = sensitivity(clean, measure, (data.images, data.labels), arrays=model, layers=("4", "0"))
    assert torch.equal(found["0"], torch.arange(17.0))
    assert told[0] is clean
    assert told[1] is model
    assert isinstance(told[2], Batch)
    assert told[2].images is data.images
    assert told[3] == ("4", "0")
    sensitivity(model, measure, data)
    assert told[5] is model
    assert told[7] == ("0", "2", "4")


def test_groups_score_the_same_however_they_are_packed() -> None:
    plain, data = grouped(), batch("grouped")
    dense, packed = (
        convert(plain, FINE, EMULATORS["ideal"], calibration=data.images, layout=layout)
        for layout in ("dense", "block_diagonal")
    )
    assert [len(dense[k].matrices) for k in (0, 2)] == [2, 6]  # type: ignore[index]
    assert [len(packed[k].matrices) for k in (0, 2)] == [1, 6]  # type: ignore[index]
    for measure in ("taylor", "leave_one_out", "l1"):
        one, two = (sensitivity(model, measure, data) for model in (dense, packed))
        assert all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-7) for name in one), measure


def test_layers_that_are_never_called_have_no_gradients() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.absent = nn.Linear(9, 4), nn.Linear(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model, data = convert(Skips(), FINE, EMULATORS["linear"]), batch("mlp")
    for measure in ("taylor", "gradient_variance", "displacement"):
        assert list(sensitivity(model, measure, data)) == ["used"]
    assert not sensitivity(model, "leave_one_out", data)["absent"].any()
    assert list(sensitivity(model, "l1", data)) == ["used", "absent"]


def test_an_unrolled_convolution_has_no_places_to_rank() -> None:
    data = batch("grouped")
    model = convert(
        grouped(), FINE, EMULATORS["ideal"], calibration=data.images, per_layer={"4": None}, layout="toeplitz"
    )
    assert list(sensitivity(model, "taylor", data)) == ["8"]
    with pytest.raises(InputError, match=r"^layers: got '0'; crossbar layers with one place for each output are '8'$"):
        sensitivity(model, "l1", data, layers=("8", "0"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"measure": "tailor"}, r"measure: got 'tailor'; it must be one of taylor, .*leave_one_out, l1, random$"),
        ({"layers": ("0", "1")}, r"layers: got '1'; crossbar layers .* are '0', '2', '4'$"),
        ({"measure": "random", "layers": ("5",)}, r"layers: got '5'"),
        ({"measure": lambda *_: {}, "layers": ("5",)}, r"layers: got '5'"),
        ({"calibration": torch.rand(3, 9)}, r"calibration: got a batch without labels"),
        ({"model": nn.Linear(9, 4)}, r"model: got Linear; it has no layer on crossbars"),
        ({"arrays": nn.Linear(9, 4)}, r"model: got Linear; it has no layer on crossbars"),
        ({"arrays": converted("repeated")}, r"arrays: got Repeated; it must have the model's layers"),
    ],
)
def test_says_what_it_cannot_do(options: dict[str, Any], said: str) -> None:
    told = {"model": converted("mlp"), "measure": "l1", "calibration": batch("mlp"), **options}
    with pytest.raises(InputError, match=rf"^{said}"):
        sensitivity(told.pop("model"), told.pop("measure"), told.pop("calibration"), **told)
