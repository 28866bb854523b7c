"""Assignment by the loss, which never rises; ADC ranges of their own, gains and measured cells are remapped too."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from mitigation_cases import ARCH, EMULATORS, NETWORKS, WIRED, batch, converted, matrices, scattered
from test_remap import EVERY, outputs_of, places
from torch import Tensor, nn

from geniex.emulator import LinearEmulator
from geniex.mapping import Arrangement
from geniex.mitigation import Batch, Remapping, remap
from geniex.mitigation.remap.observe import compute_mean_loss
from geniex.mitigation.remap.propagate import expand_order
from geniex.simulator import convert, find_crossbar_layers, find_crossbar_matrices, replace_by_ideal

REMAP = importlib.import_module("geniex.mitigation.remap.remap")
"""The module, whose name in the package is the function's."""


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_assignment_never_raises_the_calibration_loss(name: str, fold: bool) -> None:
    data = batch(name, 10)
    model = converted(name)
    before = compute_mean_loss(model, data)
    told: list[tuple[str, int, int]] = []
    found = remap(model, Remapping(fold=fold, places=4), data, progress=lambda *args: told.append(args))
    assert compute_mean_loss(found.model, data) <= before
    count = len(find_crossbar_layers(model))
    assert [(done, whole) for _, done, whole in told] == [(k + 1, count) for k in range(count)]
    assert [layer for layer, _, _ in told] == [layer.name for layer in found.layers]
    for layer in found.layers:
        assert layer.expected is None or layer.expected < 1e-6, "it is expected to fall"
        if layer.expected is None:
            assert layer.moved == 0, "taken back"


def taught(model: Any, images: Tensor) -> Batch:
    """Images with the answers that the model gives on ideal crossbars, so that wires cost something."""
    with torch.no_grad():
        return Batch(images, replace_by_ideal(model)(images).argmax(1))


def test_assignment_lowers_the_loss_where_places_matter() -> None:
    """Below what the mapping as it comes costs, and below chance."""
    model = converted("mlp", "linear", ARCH.replace(adc_bits=None))
    data = taught(model, torch.rand(60, 9, generator=torch.Generator().manual_seed(3)))
    natural = compute_mean_loss(model, data)
    found = [compute_mean_loss(remap(model, Remapping(sweeps=sweeps), data).model, data) for sweeps in (1, 3)]
    assert natural > found[0] >= found[1]
    drawn = [remap(model, Remapping(method="srs", measure="random", seed=seed), data).model for seed in range(8)]
    assert found[0] < min(compute_mean_loss(m, data) for m in drawn)


@pytest.mark.parametrize("granularity", ["layer", "tile", "column"])
@pytest.mark.filterwarnings("ignore:.*ADC changes its sums")
def test_changes_that_raise_the_loss_are_taken_back_whole(granularity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their followers' word lines and ADC ranges too."""
    arch = ARCH.replace(adc_bits=5, adc_range="calibrated", adc_granularity=granularity)
    model, data = converted("vgg", "linear", arch), batch("vgg", 6)
    told = iter(range(100))
    monkeypatch.setattr(REMAP, "compute_mean_loss", lambda model, batch: next(told))
    found = remap(model, Remapping(sweeps=2, places=3), data)
    assert next(told) == 1 + 2 * 4, "one loss before, and one a step"
    assert places(found.model) == places(model)
    state = found.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [(layer.moved, layer.undone, layer.expected) for layer in found.layers] == [(0, "", None)] * 4


def test_changes_that_do_not_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal losses are no rise; a later step that is taken back leaves the earlier ones."""
    model, data = converted("vgg"), batch("vgg", 6)
    told = iter([1.0, 1.0, 0.5, 0.6, 0.5])
    monkeypatch.setattr(REMAP, "compute_mean_loss", lambda model, batch: next(told))
    found = remap(model, Remapping(places=3), data)
    assert [layer.expected is not None for layer in found.layers] == [True, True, False, True]
    orders = outputs_of(found.model)
    assert {layer.name for layer in found.layers if layer.moved} == set(orders)
    layers = find_crossbar_layers(found.model)
    inputs = {name: matrices(layer)[0].layout.arrangement.inputs for name, layer in layers.items()}
    for producer, consumer, size in (("0", "4", 20), ("4", "8", 36)):
        assert torch.equal(inputs[consumer], expand_order(torch.tensor(orders[producer]), size))  # type: ignore[arg-type]
    assert inputs["11"] is None, "taken back with layer 8"


def test_the_expected_change_is_about_the_change() -> None:
    """Of a single layer with small errors: the loss then falls by what was expected, to some tenths."""
    torch.manual_seed(0)
    images, labels = torch.rand(60, 8), torch.randint(0, 4, (60,))
    gentle = LinearEmulator(WIRED.replace(r_wire_row=8.0, r_wire_col=8.0))
    model = convert(nn.Linear(8, 7), ARCH.replace(adc_bits=None, accumulator_bits=None), gentle, calibration=images)
    data = Batch(images, labels)
    found = remap(nn.Sequential(model), Remapping(places=7), data)
    change = compute_mean_loss(found.model, data) - compute_mean_loss(model, data)
    assert found.layers[0].expected == pytest.approx(change, rel=0.3)
    assert change < 0


# Converters with ranges of their own, gains, varied models


@pytest.mark.parametrize("granularity", ["tile", "column"])
def test_adc_ranges_of_their_own_are_chosen_anew_layer_by_layer(granularity: str) -> None:
    """By what the layers before give, which are in their places already."""
    arch = ARCH.replace(adc_bits=6, adc_range="calibrated", adc_granularity=granularity)
    data = batch("mlp", 20)
    model = converted("mlp", "linear", arch)
    found = remap(model, "wagonn", data).model
    x, after = data.images[:16], {"0": torch.relu, "2": torch.tanh, "4": torch.clone}
    for name, layer in find_crossbar_layers(found).items():
        matrix = matrices(layer)[0]
        assert matrix.layout.arrangement != Arrangement()
        step = matrix.adc_step
        matrix.calibrate_adc(x)
        assert torch.equal(matrix.adc_step, step)  # type: ignore[arg-type]
        x = after[name](layer(x)).detach()


@pytest.mark.parametrize("way", ["srs", "drs", "assignment", "drs_taylor"])
def test_every_method_works_with_ranges_of_their_own(way: str) -> None:
    arch = ARCH.replace(adc_bits=6, adc_range="calibrated", adc_granularity="column")
    data = batch("vgg", 5)
    model = converted("vgg", "linear", arch)
    assert any(arrangement != Arrangement() for arrangement in places(remap(model, way, data).model))


def test_gains_and_offsets_stay_and_count() -> None:
    data = batch("mlp", 20)
    model, plain = scattered(converted("mlp")), converted("mlp")
    found = remap(model, "srs", data).model
    for one, other in zip(*(find_crossbar_layers(m).values() for m in (model, found)), strict=True):
        assert torch.equal(one.output_gain, other.output_gain)  # type: ignore[arg-type]
        assert torch.equal(one.bias, other.bias)  # type: ignore[arg-type]
    assert outputs_of(found) != outputs_of(remap(plain, "srs", data).model)
    assert compute_mean_loss(remap(model, "assignment", data).model, data) <= compute_mean_loss(model, data)


def test_measured_cells_move_with_their_weights() -> None:
    data = batch("mlp", 8)
    model = converted("mlp")
    for matrix in find_crossbar_matrices(model).values():
        noise = torch.rand(matrix.conductances.shape, generator=torch.Generator().manual_seed(0))
        matrix.program(matrix.conductances * (1 + 0.2 * noise))
    found = remap(model, "random", data).model
    for before, after in zip(*(find_crossbar_matrices(m).values() for m in (model, found)), strict=True):
        assert not torch.equal(before.conductances, after.conductances)
        assert torch.equal(before.conductances.flatten().sort().values, after.conductances.flatten().sort().values)


def test_layers_that_are_not_called_stay_and_a_lone_layer_is_remapped() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.absent = nn.Linear(9, 4), nn.Linear(9, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    arch = ARCH.replace(input_frac_bits=4)
    model = convert(Skips(), arch, EMULATORS["linear"])
    for way in EVERY.values():
        found = remap(model, way, batch("mlp", 6))
        assert [layer.name for layer in found.layers] == ["used"]
        assert places(found.model)[1] == Arrangement()


def test_order_of_layers_is_that_of_their_calls() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(5, 4), nn.Linear(9, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu())

    told: list[str] = []
    model = convert(Backwards(), ARCH.replace(input_frac_bits=4), EMULATORS["linear"])
    for way in ("srs", "drs", "assignment", "mdm"):
        found = remap(
            model, way, batch("mlp", 6), progress=lambda name, done, whole: told.append(f"{name} {done}/{whole}")
        )
        assert [layer.name for layer in found.layers] == ["first", "last"]
        assert told == ["first 1/2", "last 2/2"]
        told.clear()
