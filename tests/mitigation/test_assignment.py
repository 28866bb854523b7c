"""Outputs put where the loss is expected to be least: beside all permutations, and what places are said to do."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from mitigation_cases import ARCH, EMULATORS, WIRED
from torch import Tensor

from geniex.emulator import LinearEmulator
from geniex.mapping import Architecture, Arrangement, TileLayout
from geniex.mitigation.remap.assignment import assign, expect_change
from geniex.mitigation.remap.orders import count_nearer
from geniex.mitigation.remap.position_effects import (
    has_own_ranges,
    measure_place_effects,
    read_at_places,
    sample_range_vectors,
)
from geniex.simulator import CrossbarMatrix, InputStatistics

TILES = Architecture(tile=(4, 6), weight_bits=5, slice_bits=2, stream_bits=2, input_bits=5)
"""Three outputs a tile."""


def near_of(outputs: int) -> Tensor:
    return count_nearer(TileLayout(TILES, inputs=4, outputs=outputs))


def effects_of(outputs: int, images: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(images, outputs, min(outputs, 3), generator=generator, dtype=torch.float64)


def change_by_hand(effects: Tensor, order: Any) -> float:
    """The mean over images of D + D^2 / 2, counted out."""
    images, total = effects.numpy(), 0.0
    for image in images:
        change = sum(image[output][place % 3] for place, output in enumerate(order))
        total += change + change**2 / 2
    return total / len(images)


def least_by_hand(effects: Tensor) -> float:
    return min(change_by_hand(effects, order) for order in itertools.permutations(range(effects.shape[1])))


@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 6])
def test_the_expected_change_is_a_mean_over_images_of_a_sum_over_outputs(outputs: int) -> None:
    effects = effects_of(outputs, 5, outputs)
    for order in itertools.islice(itertools.permutations(range(outputs)), 0, None, 7):
        given = expect_change(effects, near_of(outputs), torch.tensor(order))
        assert given == pytest.approx(change_by_hand(effects, order), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 5, 6])
def test_least_of_all_orders_where_no_image_feels_two_outputs(outputs: int, seed: int) -> None:
    """Without products of different outputs the assignment is exact."""
    effects = torch.zeros(3 * outputs, outputs, min(outputs, 3), dtype=torch.float64)
    drawn = effects_of(outputs, 3, seed)
    for output in range(outputs):
        effects[3 * output : 3 * output + 3, output] = drawn[:, output]
    order = assign(effects, near_of(outputs))
    assert sorted(order.tolist()) == list(range(outputs))
    assert change_by_hand(effects, order) == pytest.approx(least_by_hand(effects), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("outputs", [4, 5, 6])
def test_no_exchange_of_two_outputs_is_expected_to_cost_less(outputs: int, seed: int) -> None:
    """Images feel several outputs: the sum of costs is not all, and the worst orders are left far behind."""
    effects = effects_of(outputs, 4, seed)
    order = assign(effects, near_of(outputs)).tolist()
    found = change_by_hand(effects, order)
    for a, b in itertools.combinations(range(outputs), 2):
        other = list(order)
        other[a], other[b] = other[b], other[a]
        assert change_by_hand(effects, other) >= found - 1e-6
    every = sorted(change_by_hand(effects, p) for p in itertools.permutations(range(outputs)))
    assert found <= every[len(every) // 10]


def test_products_of_outputs_are_made_use_of() -> None:
    """Alone output 1 would best stay away from the drivers; beside output 0 it makes up for what that one does."""
    effects = torch.zeros(2, 6, 3, dtype=torch.float64)
    effects[:, 0, 0] = torch.tensor([0.2, -0.6])
    effects[:, 1, 0] = torch.tensor([-0.4, 0.4])
    effects[:, 2:, 0] = 0.05  # for the others it is a little worse to be near
    alone = (effects + effects.square() / 2).mean(0)[:, 0]
    assert alone.argsort()[:2].tolist() == [0, 2]
    order = assign(effects, near_of(6)).tolist()
    assert {order[0], order[3]} == {0, 1}, "two places are nearest"
    assert change_by_hand(effects, order) == pytest.approx(least_by_hand(effects), abs=1e-12)
    assert change_by_hand(effects, order) == pytest.approx(-0.18, abs=1e-7)


@pytest.mark.parametrize(("stay", "back"), [(1.0, 5.0), (5.0, 1.0)])
def test_more_than_two_outputs_are_exchanged_at_once(stay: float, back: float) -> None:
    """Any exchange of two makes it worse, but one place on for all of them costs nothing; errors of mean 0."""
    effects = torch.zeros(6, 3, 3, dtype=torch.float64)
    for output in range(3):
        cost = torch.zeros(3, dtype=torch.float64)
        cost[output], cost[output - 1] = stay, back
        effects[2 * output, output], effects[2 * output + 1, output] = cost.sqrt(), -cost.sqrt()
    assert assign(effects, near_of(3)).tolist() == [2, 0, 1]


def test_one_place_and_one_output() -> None:
    assert assign(torch.ones(3, 1, 1, dtype=torch.float64), near_of(1)).tolist() == [0]


def test_nothing_to_gain_keeps_every_output_at_home() -> None:
    assert assign(torch.zeros(4, 6, 3, dtype=torch.float64), near_of(6)).tolist() == list(range(6))


# What places do


FIELDS = torch.rand(5, 3, 12, generator=torch.Generator().manual_seed(0))
"""Images, vectors, inputs."""
GRADIENTS = torch.randn(5, 3, 10, generator=torch.Generator().manual_seed(1))


def matrix(emulator: str = "linear", outputs: int = 10, **options: Any) -> CrossbarMatrix:
    """Seven outputs on the first tile, three on the second."""
    weight = torch.randn(outputs, 12, generator=torch.Generator().manual_seed(2))
    inputs = InputStatistics()
    inputs.add(FIELDS.flatten(0, 1))
    return CrossbarMatrix(weight, ARCH.replace(**options), EMULATORS[emulator], inputs=inputs)


@pytest.mark.parametrize("start", [None, [4, 9, 0, 3, 8, 1, 7, 5, 2, 6]])
@pytest.mark.parametrize("samples", [1, 2, 3, 7, 20])
def test_outputs_move_around_their_tiles_together(start: list[int] | None, samples: int) -> None:
    made = matrix()
    if start is not None:
        made.arrange(Arrangement.of(outputs=start))
    home = made.layout.arrangement
    now = {output: place for place, output in enumerate(start or range(10))}
    found = list(read_at_places(made, FIELDS, samples))
    count = min(samples, 7)
    assert len(found) == count
    for k, (near, given) in enumerate(found):
        by, order = round(k * 7 / count), [0] * 10
        for output, place in now.items():
            first, size = (0, 7) if place < 7 else (7, 3)
            there = (place - first + by) % size
            assert int(near[output]) == there
            order[first + there] = output
        probe = matrix()
        probe.arrange(Arrangement.of(outputs=order))
        assert torch.equal(given, probe(FIELDS))
    assert made.layout.arrangement == home
    assert torch.equal(found[0][1], made(FIELDS)), "the first is what it gives now"


def effects_by_hand(made: CrossbarMatrix, samples: int, reference: Tensor | None) -> np.ndarray[Any, Any]:
    """(images, outputs, nearness) by one read at a time, on the line that ``numpy.polyfit`` puts through them."""
    reads = [(near.tolist(), given.double().numpy()) for near, given in read_at_places(made, FIELDS, samples)]
    base = reads[0][1] if reference is None else reference.double().numpy()
    out = np.zeros((5, made.layout.outputs, min(7, made.layout.outputs)))
    for image, output in itertools.product(range(5), range(made.layout.outputs)):
        errors = [given[image, :, output] - base[image, :, output] for _, given in reads]
        effects = [float(error @ GRADIENTS[image, :, output].double().numpy()) for error in errors]
        line = np.polyfit([near[output] for near, _ in reads], effects, 1)
        out[image, output] = np.polyval(line, np.arange(out.shape[2]))
    return out


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("samples", [2, 3, 5, 7, 9])
def test_effects_are_gradients_times_changes_on_a_straight_line(samples: int, given: bool) -> None:
    made = matrix(outputs=7)  # one full tile, so that each output is read at different places
    gradients = GRADIENTS[..., :7]
    reference = matrix("ideal", outputs=7)(FIELDS) if given else None
    effects = measure_place_effects(made, FIELDS, gradients, samples, reference)
    assert effects.shape == (5, 7, 7)
    assert effects.dtype == torch.float64
    expected = effects_by_hand(made, samples, reference)
    np.testing.assert_allclose(effects.numpy(), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    assert np.abs(expected).max() > 0


def test_effects_on_a_last_tile_of_fewer_outputs() -> None:
    made = matrix()
    effects, expected = measure_place_effects(made, FIELDS, GRADIENTS, 7), effects_by_hand(made, 7, None)
    np.testing.assert_allclose(effects, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_one_sample_tells_nothing_of_places() -> None:
    effects = measure_place_effects(matrix(), FIELDS, GRADIENTS, 1, matrix("ideal")(FIELDS))
    assert effects.shape == (5, 10, 7)
    assert effects.abs().sum() > 0
    assert torch.equal(effects, effects[..., :1].expand(-1, -1, 7))
    assert not measure_place_effects(matrix(), FIELDS, GRADIENTS, 1).any()


@pytest.mark.parametrize("emulator", ["ideal", "read"])
def test_places_do_nothing_on_ideal_crossbars(emulator: str) -> None:
    assert not measure_place_effects(matrix(emulator), FIELDS, GRADIENTS, 4).any()


def test_the_law_of_the_effects_is_the_change_that_a_small_move_makes() -> None:
    """One output's gradient alone: what the loss changes by, were it there, is d."""
    made = CrossbarMatrix(torch.rand(3, 8) + 0.5, ARCH, LinearEmulator(WIRED), inputs=1.0)
    fields, gradients = torch.rand(2, 1, 8), torch.zeros(2, 1, 3)
    gradients[..., 1] = torch.tensor([[1.0], [-3.0]])
    d = measure_place_effects(made, fields, gradients, 2)
    before = made(fields)
    made.arrange(Arrangement.of(outputs=[1, 2, 0]))  # as the read with all of them moved on by two
    change = (made(fields) - before)[:, 0, 1].double()
    torch.testing.assert_close(d[:, 1, 0], change * torch.tensor([1.0, -3.0]))
    assert not d[:, [0, 2]].any()


@pytest.mark.parametrize(("count", "step"), [(1, 1), (63, 1), (64, 1), (65, 2), (200, 4)])
def test_ranges_are_chosen_by_some_vectors_from_all_over(count: int, step: int) -> None:
    vectors = torch.arange(2.0 * count).reshape(count, 2)
    for fields in (vectors, vectors[None], vectors[:, None]):
        assert torch.equal(sample_range_vectors(fields), vectors[::step])
    assert len(sample_range_vectors(vectors)) <= 64


@pytest.mark.parametrize(
    ("adc_range", "granularity"),
    [("unit", "layer"), ("full_scale", "layer"), *(("calibrated", g) for g in ("layer", "tile", "column"))],
)
def test_ranges_of_tiles_and_columns_go_with_their_outputs(adc_range: str, granularity: str) -> None:
    made = matrix(adc_bits=9, adc_range=adc_range, adc_granularity=granularity)
    own = adc_range == "calibrated" and granularity != "layer"
    assert has_own_ranges(made) == own
    step = made.adc_step
    reads = list(read_at_places(made, FIELDS, 3))
    assert made.adc_step is step, "the matrix itself stays as it is"
    for near, given in reads[1:]:
        probe = matrix(adc_bits=9, adc_range=adc_range, adc_granularity=granularity)
        order = torch.cat([near[:7].argsort(), 7 + near[7:].argsort()])
        probe.arrange(Arrangement.of(outputs=order), FIELDS.flatten(0, 1) if own else None)
        assert torch.equal(given, probe(FIELDS))
