"""Orders of outputs, word lines and bit lines, counted out by hand on a few small tiles."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
import torch
from mitigation_cases import ARCH, EMULATORS, SCHEMES, WIRED
from torch import Tensor

from geniex.emulator import IdealEmulator, LinearEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture, Arrangement, TileLayout
from geniex.mitigation.remap.orders import Bits, Rows, check_order, count_nearer, order_lines, order_rows, rank
from geniex.simulator import CrossbarMatrix

SMALL = Architecture(tile=(4, 6), weight_bits=5, slice_bits=2, stream_bits=2, input_bits=5)
"""Two slices and three outputs a tile, four word lines."""


def small(weight: Tensor, **options: Any) -> CrossbarMatrix:
    return CrossbarMatrix(weight, SMALL.replace(**options), IdealEmulator(), inputs=1.0)


@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 6, 7, 8])
def test_the_best_go_nearest_the_drivers_tile_by_tile(outputs: int) -> None:
    layout = TileLayout(SMALL, inputs=5, outputs=outputs)
    assert count_nearer(layout).tolist() == [k % 3 for k in range(outputs)]
    scores = torch.rand(outputs, generator=torch.Generator().manual_seed(outputs), dtype=torch.float64)
    order = rank(scores, layout).tolist()
    assert sorted(order) == list(range(outputs))
    # All first places, then all second ones: none of the later ones has a higher score.
    filled = [order[place] for near in range(3) for place in range(near, outputs, 3)]
    assert filled == sorted(range(outputs), key=lambda k: -float(scores[k]))


def test_places_are_filled_across_tiles() -> None:
    layout = TileLayout(SMALL, inputs=5, outputs=7)
    # Places 0, 3 and 6 are the nearest, 1 and 4 come next, 2 and 5 last.
    assert rank(torch.tensor([7.0, 6, 5, 4, 3, 2, 1]), layout).tolist() == [0, 3, 5, 1, 4, 6, 2]
    assert rank(torch.tensor([1.0, 2, 3, 4, 5, 6, 7]), layout).tolist() == [6, 3, 1, 5, 2, 0, 4]


def test_equal_scores_keep_their_order() -> None:
    layout = TileLayout(SMALL, inputs=5, outputs=7)
    assert rank(torch.zeros(7), layout).tolist() == [0, 3, 5, 1, 4, 6, 2]
    assert rank(torch.tensor([0.0, 1, 0]), TileLayout(SMALL, inputs=5, outputs=3)).tolist() == [1, 0, 2]


def word_line_sums(matrix: CrossbarMatrix) -> list[float]:
    """Conductance of each input's word line over all tiles and both arrays, by where ``locate`` says that it is."""
    found = []
    for k in range(matrix.layout.inputs):
        row_tile, _, row, _ = matrix.locate(0, k)
        found.append(float(matrix.conductances[row_tile, :, :, row].double().sum()))
    return found


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("inputs", [4, 7, 10])
@pytest.mark.parametrize("start", [None, "shuffled"])
def test_word_lines_with_the_most_conductance_go_nearest_the_sense_side(
    scheme: dict[str, str], inputs: int, start: str | None
) -> None:
    weight = torch.randn(9, inputs, generator=torch.Generator().manual_seed(inputs))
    weight = weight * torch.logspace(-1, 0, inputs)[torch.randperm(inputs, generator=torch.Generator().manual_seed(2))]
    arch = SMALL.replace(tile=(4, 12), **scheme, weight_frac_bits=3)
    matrix = CrossbarMatrix(weight, arch, IdealEmulator(), inputs=1.0)
    sums = word_line_sums(matrix)
    if start:
        matrix.arrange(Arrangement.of(inputs=torch.arange(inputs).flip(0), outputs=torch.arange(9).roll(2)))
    order = order_rows(matrix, "mdm")
    assert order is not None
    assert sorted(order.tolist()) == list(range(inputs))
    # The last word line of every tile is filled first, then the last but one; a short last tile ends sooner.
    filled = [int(order[place]) for row in (3, 2, 1, 0) for place in range(row, inputs, 4)]
    for before, after in itertools.pairwise(filled):
        assert sums[before] >= sums[after] * (1 - 1e-9)
    assert max(sums) > 1.01 * min(sums)
    matrix.arrange(Arrangement.of(inputs=order))
    assert torch.equal(order_rows(matrix, "mdm"), order), "it does not depend on where things are"  # type: ignore[arg-type]


def test_the_content_of_a_word_line_is_its_weights_magnitudes() -> None:
    """Differential weights: a level of conductance for each unit of any slice, of either sign."""
    weight = torch.tensor([[0.0, -15, 1, 3, 5], [0, 0, 0, 4, 1]]) / 16
    matrix = small(weight, weight_frac_bits=4)
    # In base 4: 0; 33; 1; 3 and 10; 11 and 1.
    levels = [0, 6, 1, 3 + 1, 2 + 1]
    sums = torch.tensor(word_line_sums(matrix))
    step, floor = SMALL.window.step(4), float(sums[0])
    assert ((sums - floor) / step).round().tolist() == levels
    # The most at the sense side of the first tile, the least on the second tile's line.
    assert order_rows(matrix, "mdm").tolist() == [2, 4, 3, 1, 0]  # type: ignore[union-attr]


def test_natural_orders_are_none() -> None:
    matrix = small(torch.rand(4, 5))
    assert order_rows(matrix, "natural") is None
    assert order_lines(matrix, "natural") is None


@pytest.mark.parametrize(
    ("bits", "expected"),
    [("reversed", [1, 0, 3, 2, 5, 4]), ("msb_near", [0, 2, 4, 1, 3, 5]), ("lsb_near", [1, 3, 5, 0, 2, 4])],
)
def test_slices_side_by_side_or_apart(bits: Bits, expected: list[int]) -> None:
    """An output's most significant slice is its first bit line."""
    assert order_lines(small(torch.rand(4, 5)), bits).tolist() == expected  # type: ignore[union-attr]


def test_three_slices() -> None:
    matrix = small(torch.rand(2, 5), weight_bits=7)
    assert matrix.architecture.slices == 3
    assert order_lines(matrix, "reversed").tolist() == [2, 1, 0, 5, 4, 3]  # type: ignore[union-attr]
    assert order_lines(matrix, "msb_near").tolist() == [0, 3, 1, 4, 2, 5]  # type: ignore[union-attr]
    assert order_lines(matrix, "lsb_near").tolist() == [2, 5, 1, 4, 0, 3]  # type: ignore[union-attr]


@pytest.mark.parametrize("bits", ["reversed", "msb_near", "lsb_near", "dense_near"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
def test_spare_bias_and_reference_columns_stay(bits: Bits, scheme: dict[str, str]) -> None:
    arch = ARCH.replace(**scheme, weight_frac_bits=4, tile=(8, 17))
    matrix = CrossbarMatrix(torch.randn(9, 10), arch, IdealEmulator(), inputs=1.0)
    used = arch.outputs_per_tile * arch.slices
    assert used < 17
    order = order_lines(matrix, bits)
    assert order is not None
    assert sorted(order[:used].tolist()) == list(range(used))
    assert order[used:].tolist() == list(range(used, 17))


def lines_by_hand(matrix: CrossbarMatrix) -> Tensor:
    """Conductance of each bit line where it lies, over all tiles and arrays."""
    sums = torch.zeros(matrix.architecture.tile[1], dtype=torch.float64)
    for tile in matrix.conductances.double().flatten(0, 2):
        sums += tile.sum(0)
    return sums


@pytest.mark.parametrize(
    "start", [None, Arrangement.of(outputs=[8, 1, 6, 3, 4, 5, 2, 7, 0], lines=torch.arange(14).flip(0))]
)
@pytest.mark.parametrize("outputs", [None, [3, 8, 7, 0, 6, 1, 2, 4, 5]])
def test_dense_bit_lines_go_nearest_the_drivers(outputs: list[int] | None, start: Arrangement | None) -> None:
    """Of what will be on them, wherever outputs are now."""
    weight = torch.randn(9, 10, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 0, 9)[:, None]
    matrix = CrossbarMatrix(weight, ARCH, LinearEmulator(WIRED), inputs=1.0)
    if start is not None:
        matrix.arrange(start)
    order = None if outputs is None else torch.tensor(outputs)
    lines = order_lines(matrix, "dense_near", order)
    matrix.arrange(Arrangement(order, None, lines))
    sums = lines_by_hand(matrix)
    assert bool((sums.diff() <= 1e-12).all())
    assert sums[0] > 1.2 * sums[-1]
    assert not torch.equal(lines, torch.arange(14))  # type: ignore[arg-type]


def test_equally_dense_lines_keep_their_order() -> None:
    matrix = small(torch.zeros(4, 5), weight_frac_bits=3)
    assert order_lines(matrix, "dense_near").tolist() == list(range(6))  # type: ignore[union-attr]


@pytest.mark.parametrize("emulator", ["linear", "physics"])
def test_what_is_programmed_decides_not_what_was(emulator: str) -> None:
    """Measured cells, and the weight of a trainable matrix as it is now."""
    weight = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    matrix = CrossbarMatrix(weight, ARCH, EMULATORS[emulator], inputs=1.0)
    before = order_rows(matrix, "mdm"), order_lines(matrix, "dense_near")
    matrix.program(matrix.conductances.flip(3).flip(4))
    after = order_rows(matrix, "mdm"), order_lines(matrix, "dense_near")
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "kinds"), [("rows", Rows), ("bits", Bits)])
@pytest.mark.parametrize("value", ["sorted", None, 1, ["natural"]])
def test_orders_are_checked(name: str, kinds: Any, value: object) -> None:
    for known in get_args(kinds):
        check_order(name, known, kinds)
    with pytest.raises(InputError) as error:
        check_order(name, value, kinds)
    assert str(error.value) == f"{name}: got {value!r}; it must be one of {', '.join(get_args(kinds))}"
