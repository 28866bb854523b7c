"""Per-layer output errors against the exact circuit's, and the order of remappings against SciPy's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, IdealEmulator, LinearEmulator
from geniex.mapping import Architecture
from geniex.mitigation import Batch, remap
from geniex.simulator import convert, replace_by_ideal, replace_emulator
from geniex.study.grid.layer_errors import LayerError, compare_orders, measure_layer_errors

CROSSBAR = Crossbar(8, 8, r_source=100.0, r_sink=50.0, r_wire=10.0)
ARCH = Architecture(tile=(8, 8), weight_bits=6, input_bits=6, slice_bits=5, stream_bits=5, adc_range="full_scale")


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.rand(6, 1, 6, 6, generator=generator), torch.arange(6) % 4)


@pytest.fixture(scope="module")
def converted(batch: Batch) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4)).eval()
    base = convert(network, ARCH, LinearEmulator(CROSSBAR), calibration=batch.images)
    return {"none": base, "random": remap(base, "random", batch).model}


def errors(models: dict[str, nn.Module], batch: Batch, **options: Any) -> dict[str, tuple[LayerError, ...]]:
    return {
        name: measure_layer_errors(model, models["none"], CROSSBAR, batch, **options) for name, model in models.items()
    }


def test_errors_are_those_of_layers_on_each_model_of_the_crossbar(
    converted: dict[str, nn.Module], batch: Batch
) -> None:
    found = errors(converted, batch, positions=10**6, tol=1e-8)
    ideal, gradients = _clean(converted["none"], batch)
    patches = nn.functional.unfold(batch.images, 3).transpose(1, 2).flatten(0, 1)
    for name, model in converted.items():
        assert [error.layer for error in found[name]] == ["0", "3"]
        first = found[name][0]
        assert first.positions == 96
        with torch.no_grad():
            emulated = model[0].product(patches)
            exact = _on_circuit(model, batch)[0].product(patches.double())
        for given, plain, weighted in (
            (emulated, first.emulator, first.emulator_weighted),
            (exact, first.circuit, first.circuit_weighted),
        ):
            error = (given - ideal).double()
            assert plain == pytest.approx(float(error.norm() / ideal.double().norm()), rel=1e-5)
            weights = gradients.double().square().mean(0).sqrt()
            assert weighted == pytest.approx(float((error * weights).norm() / (ideal * weights).norm()), rel=1e-5)
        assert first.emulator != pytest.approx(first.circuit, rel=1e-3)  # linear cells are not sinh ones


def _clean(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The first layer's ideal outputs and each image's loss gradient by them (vectors, outputs), by autograd alone."""
    clean = replace_by_ideal(model)
    maps = clean[0](batch.images).detach().requires_grad_()
    loss = nn.functional.cross_entropy(clean[1:](maps), batch.labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, maps)
    return tuple(x.flatten(2).transpose(1, 2).flatten(0, 1) for x in (maps.detach(), gradient))


def _on_circuit(model: nn.Module, batch: Batch) -> nn.Module:
    """The same arrays on the exact circuit."""
    return replace_emulator(copy.deepcopy(model).double(), CircuitEmulator(CROSSBAR, tol=1e-8))


def test_the_same_inputs_are_sampled_for_all_remappings(converted: dict[str, nn.Module], batch: Batch) -> None:
    one, other = (errors(converted, batch, positions=5, seed=seed) for seed in (0, 1))
    assert one == errors(converted, batch, positions=5, seed=0)
    assert one["none"][0].emulator != other["none"][0].emulator


def test_ideal_tiles_have_no_error_but_the_circuit_has(batch: Batch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).eval()
    ideal = convert(network, ARCH, IdealEmulator(), calibration=batch.images)
    (error,) = measure_layer_errors(ideal, ideal, CROSSBAR, batch, positions=6)
    assert error.emulator == 0
    assert error.circuit > 0.01


def test_the_agreement_of_two_orders_is_kendalls_tau() -> None:
    first, second = [0.3, 0.1, 0.4, 0.15, 0.2], [0.2, 0.12, 0.5, 0.3, 0.1]
    pairs = list(zip(first, second, strict=True))
    assert compare_orders(pairs) == pytest.approx(stats.kendalltau(first, second).statistic)
    assert compare_orders(pairs[:1]) is None
