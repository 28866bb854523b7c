"""Varied models: seeds by tile, whatever is varied beside it; the original untouched."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, IdealEmulator, LinearEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.simulator import convert, find_crossbar_matrices, load_converted, save_converted, to_digital, vary
from geniex.variation import (
    ConductanceSpread,
    Drift,
    ProgrammingError,
    ReadNoise,
    StuckCells,
    Variations,
    vary_tiles,
)

ARCH = Architecture(tile=(8, 8), window=ConductanceWindow(100e3, 6.0), weight_bits=8, input_bits=8, input_frac_bits=7)
VARIATIONS = Variations(
    (ConductanceSpread(0.1), ProgrammingError((0.02,), tolerance=0.02, attempts=3), StuckCells(0.02, 0.05))
)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


@pytest.fixture
def model(network: nn.Module) -> nn.Module:
    return convert(network, ARCH, LinearEmulator(Crossbar(8, 8)))


def programmed(model: nn.Module) -> dict[str, Tensor]:
    return {name: matrix.conductances for name, matrix in find_crossbar_matrices(model).items()}


def test_a_tile_does_not_depend_on_the_others(model: nn.Module) -> None:
    name, g = next(iter(programmed(model).items()))
    whole = vary_tiles(g, ARCH.window, VARIATIONS, 5, name)
    assert len({tile.numpy().tobytes() for tile in whole.flatten(0, -3)}) == whole.flatten(0, -3).shape[0] > 4
    part = vary_tiles(g[:1, :, :1], ARCH.window, VARIATIONS, 5, name)
    assert torch.equal(part, whole[:1, :, :1])
    # Other contents elsewhere change nothing here.
    others = g.clone()
    others[1:] = ARCH.window.g_on
    assert torch.equal(vary_tiles(others, ARCH.window, VARIATIONS, 5, name)[:1], whole[:1])


def test_every_tile_of_every_layer_has_draws_of_its_own() -> None:
    """Of equal contents, so that a difference is the draws'."""
    g = torch.full((2, 2, 3, 8, 8), ARCH.window.g_on)
    layers = [vary_tiles(g, ARCH.window, VARIATIONS, 5, name).flatten(0, -3) for name in ("a", "b")]
    assert len({tile.numpy().tobytes() for layer in layers for tile in layer}) == 24


def test_a_layer_does_not_depend_on_the_others(network: nn.Module, model: nn.Module) -> None:
    alone = convert(network, ARCH, LinearEmulator(Crossbar(8, 8)), per_layer={"0": None})
    both, one = programmed(vary(model, VARIATIONS, 5)), programmed(vary(alone, VARIATIONS, 5))
    assert list(one) == [name for name in both if name.startswith("2")]
    for name, g in one.items():
        assert torch.equal(g, both[name])


def test_seeds_repeat_and_differ(model: nn.Module) -> None:
    before = {name: g.clone() for name, g in programmed(model).items()}
    first, again, other = (programmed(vary(model, VARIATIONS, seed)) for seed in (5, 5, 6))
    for name, g in before.items():
        assert torch.equal(programmed(model)[name], g)
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name], g)


def test_a_step_added_leaves_the_others_draws(generator: torch.Generator) -> None:
    g = ARCH.window.g_on * torch.rand(8, 8, generator=generator)
    stuck = StuckCells(0.2, 0.2)
    plain = Variations((ProgrammingError((0.1,)), stuck))
    stronger = Variations((ProgrammingError((0.3,), tolerance=0.1, attempts=4), stuck, Drift(1e5, nu=0.05)))
    seen = [v.apply(g, ARCH.window, torch.Generator().manual_seed(2)) for v in (plain, stronger)]
    on = torch.tensor(ARCH.window.g_on)
    assert torch.equal(seen[0] == on, torch.isclose(seen[1], on * (1e5 / 20) ** -0.05, rtol=1e-6, atol=0))
    assert int((seen[0] == on).sum()) > 0


def test_the_emulator_reads_what_was_varied(model: nn.Module) -> None:
    """The varied conductances put on by hand give the same outputs, to the bit."""
    varied, by_hand = vary(model, VARIATIONS, 5), copy.deepcopy(model)
    for name, matrix in find_crossbar_matrices(by_hand).items():
        matrix.program(programmed(varied)[name])
    x = torch.rand(7, 20)
    assert torch.equal(varied(x), by_hand(x))
    assert not torch.equal(varied(x), model(x))
    assert torch.equal(vary(model, Variations())(x), model(x))


def test_float32_and_float64_are_varied_alike(network: nn.Module) -> None:
    made = [convert(network, ARCH, IdealEmulator(), dtype=dtype) for dtype in (torch.float32, torch.float64)]
    single, double = (programmed(vary(m, VARIATIONS, 1)) for m in made)
    for name, g in double.items():
        assert torch.allclose(single[name].double(), g, rtol=1e-6, atol=0)


def test_read_noise_is_each_matrix_own_and_repeats(model: nn.Module) -> None:
    noisy = Variations(read_noise=ReadNoise(relative=0.05))
    x = torch.rand(7, 20)
    first, again, other = (vary(model, noisy, seed)(x) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    twice = vary(vary(model, noisy, 5), Variations(), 7)
    assert not torch.equal(twice(x), first)
    seeds = {m.emulator.seed for m in find_crossbar_matrices(twice).values()}  # type: ignore[attr-defined]
    assert len(seeds) == len(find_crossbar_matrices(twice))


def test_trainable_models_are_varied_as_they_are_now(network: nn.Module) -> None:
    trainable = convert(network, ARCH, IdealEmulator(), trainable=True)
    with torch.no_grad():
        for matrix in find_crossbar_matrices(trainable).values():
            matrix.weight.mul_(0.5)  # type: ignore[union-attr]
    varied = vary(trainable, VARIATIONS, 5)
    x = torch.rand(4, 20)
    with torch.no_grad():
        before = varied(x)
        trainable(x)  # programs the new weight
    for name, g in programmed(trainable).items():
        expected = vary_tiles(g, ARCH.window, VARIATIONS, 5, name)
        assert torch.equal(programmed(varied)[name], expected)
    assert torch.equal(varied(x), before)  # with gradients on, too
    with pytest.raises(InputError, match="trainable"):
        to_digital(varied)


def test_varied_models_are_saved_with_their_cells(network: nn.Module, model: nn.Module, tmp_path: Path) -> None:
    varied = vary(model, VARIATIONS, 5)
    loaded = load_converted(save_converted(varied, tmp_path / "varied"), network)
    x = torch.rand(3, 20)
    assert torch.equal(loaded(x), varied(x))


def test_the_exact_circuit_takes_varied_cells(network: nn.Module) -> None:
    model = convert(network, ARCH, CircuitEmulator(Crossbar(8, 8)))
    assert torch.isfinite(vary(model, VARIATIONS, 5)(torch.rand(1, 20))).all()


def test_bad_input_is_named(network: nn.Module, model: nn.Module) -> None:
    with pytest.raises(InputError, match="model"):
        vary(network, VARIATIONS)
    with pytest.raises(InputError, match="variations"):
        vary(model, ConductanceSpread(0.1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed"):
        vary(model, VARIATIONS, -1)
