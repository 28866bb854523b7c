"""Where weights lie on tiles in any order of outputs, inputs and bit lines, against loops over single cells."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geniex.errors import InputError
from geniex.mapping import Architecture, Arrangement, TileLayout
from geniex.mapping.layout.placement import invert

ORDERS = ("outputs", "inputs", "lines")
SCHEMES = [
    {"weight_scheme": "differential", "offset": "analog_difference"},
    {"weight_scheme": "differential", "offset": "reference_column"},
    {"weight_scheme": "offset", "offset": "ideal_after"},
    {"weight_scheme": "offset", "offset": "reference_column"},
    {"weight_scheme": "twos_complement", "offset": "reference_column"},
]


Cell = tuple[int, int, int, int]
"""Row tile, column tile, row, bit line in natural order."""


class Case(NamedTuple):
    """Weights on tiles, and the plain lists that say where."""

    arch: Architecture
    outputs: int
    inputs: int
    orders: dict[str, list[int] | None]
    other: dict[str, list[int] | None]

    @property
    def arrays(self) -> int:
        return 2 if self.arch.weight_scheme == "differential" else 1

    @property
    def slices(self) -> int:
        bits, base = self.arch.weight_bits, self.arch.slice_bits
        if self.arch.weight_scheme == "twos_complement":
            return 1 + -(-(bits - 1) // base)
        return -(-(bits - (self.arch.weight_scheme == "differential")) // base)

    @property
    def bias_start(self) -> int:
        bias = self.slices if self.arch.weight_scheme == "offset" else 0
        return self.arch.tile[1] - bias - (self.arch.offset == "reference_column")

    def layout(self, orders: dict[str, list[int] | None] | None = None) -> TileLayout:
        arrangement = Arrangement.of(**(self.orders if orders is None else orders))
        return TileLayout(self.arch, inputs=self.inputs, outputs=self.outputs, arrangement=arrangement)

    def weight_cells(self, orders: dict[str, list[int] | None]) -> dict[tuple[int, int, int], Cell]:
        """The cell of every (output, input, slice)."""
        found = {}
        per_tile = self.bias_start // self.slices
        for place, output in enumerate(orders["outputs"] or range(self.outputs)):
            for line, input in enumerate(orders["inputs"] or range(self.inputs)):
                for s in range(self.slices):
                    found[output, input, s] = (
                        line // self.arch.tile[0],
                        place // per_tile,
                        line % self.arch.tile[0],
                        place % per_tile * self.slices + s,
                    )
        return found


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Up to three row tiles and three column tiles, as a rule partly filled, of one to three slices."""
    schemes: Any = draw(st.sampled_from(SCHEMES))
    bits, base = draw(st.integers(2, 6)), draw(st.integers(2, 6))
    outputs, inputs = draw(st.integers(1, 9)), draw(st.integers(1, 10))
    rows = draw(st.integers(4, 7))
    least = Case(Architecture(weight_bits=bits, slice_bits=base, **schemes), 1, 1, {}, {})
    unused = 64 - least.bias_start
    cols = unused + least.slices * draw(st.integers(3, 5)) + draw(st.integers(0, least.slices - 1))
    sizes = {"outputs": outputs, "inputs": inputs, "lines": cols}
    orders: list[dict[str, Any]] = [
        {name: draw(st.none() | st.permutations(range(size))) for name, size in sizes.items()} for _ in range(2)
    ]
    return Case(least.arch.replace(tile=(rows, cols)), outputs, inputs, *orders)


def numbered(case: Case) -> Tensor:
    """A number of its own, from 1, for each slice of each weight of each array."""
    shape = (case.arrays, case.outputs, case.inputs, case.slices)
    return torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape)


def on_cells(case: Case, digits: Tensor, bias: list[int]) -> Tensor:
    """Tiles filled cell by cell, bit lines in natural order."""
    rows, cols = case.arch.tile
    grid = [-(-case.inputs // rows), -(-case.outputs // (case.bias_start // case.slices))]
    tiles = torch.zeros(grid[0], case.arrays, grid[1], rows, cols, dtype=torch.int64)
    for (output, input, s), (r, c, row, col) in case.weight_cells(case.orders).items():
        for a in range(case.arrays):
            tiles[r, a, c, row, col] = digits[a, output, input, s]
    for line, a, c in itertools.product(range(case.inputs), range(case.arrays), range(grid[1])):
        for s, level in enumerate(bias):
            tiles[line // rows, a, c, line % rows, case.bias_start + s] = level
    return tiles


@settings(max_examples=60)
@given(cases())
def test_every_digit_is_on_the_cell_that_its_orders_name(case: Case) -> None:
    digits = numbered(case)
    bias = [-1 - s for s in range(case.slices)] if case.arch.weight_scheme == "offset" else []
    tiles = case.layout().place(digits, torch.tensor(bias) if bias else None)
    assert torch.equal(tiles, on_cells(case, digits, bias))
    assert int((tiles > 0).sum()) == digits.numel()


@settings(max_examples=60)
@given(cases())
def test_locate_names_the_cells_that_hold_a_weight(case: Case) -> None:
    digits, layout = numbered(case), case.layout()
    tiles = layout.onto_lines(layout.place(digits))
    for output, input in itertools.product(range(case.outputs), range(case.inputs)):
        r, c, row, cols = layout.locate(output, input)
        held = torch.stack([tiles[r, :, c, row, col] for col in cols], dim=-1)
        assert torch.equal(held, digits[:, output, input])
    for name, value in (("output", case.outputs), ("input", -1)):
        with pytest.raises(InputError, match=f"{name}: got {value}; it must be between"):
            layout.locate(**{"output": 0, "input": 0, name: value})


@settings(max_examples=60)
@given(cases())
def test_cells_move_with_their_weights_and_the_others_stay(case: Case) -> None:
    """Of any contents, as of measured cells."""
    rows, cols = case.arch.tile
    old, new = case.layout(), case.layout(case.other)
    cells = torch.rand(old.row_tiles, case.arrays, old.col_tiles, rows, cols)
    expected = cells.clone()
    there = case.weight_cells(case.other)
    for weight, (r, c, row, col) in case.weight_cells(case.orders).items():
        to_r, to_c, to_row, to_col = there[weight]
        expected[to_r, :, to_c, to_row, to_col] = cells[r, :, c, row, col]
    moved = old.relocate(cells, new)
    assert torch.equal(moved, expected)
    assert torch.equal(new.relocate(moved, old), cells)


@settings(max_examples=60)
@given(cases())
def test_inputs_reach_their_word_lines_and_outputs_come_back_in_order(case: Case) -> None:
    """A tile-by-tile product of placed weights is the product of the weights."""
    layout, generator = case.layout(), torch.Generator().manual_seed(0)
    digits = torch.randint(-9, 10, (1, case.outputs, case.inputs, case.slices), generator=generator)
    x = torch.randint(-9, 10, (2, 3, case.inputs), generator=generator)
    tiles = layout.onto_lines(layout.place(digits))[:, 0]
    columns = torch.einsum("abrk,rckl->abcl", layout.split_inputs(x), tiles)
    sums = layout.slices_of(layout.off_lines(columns)).sum(-1)
    assert torch.equal(layout.join_outputs(sums), x @ digits[0].sum(-1).T)
    assert torch.equal(layout.join_inputs(layout.split_inputs(x)), x)


@settings(max_examples=30)
@given(cases())
def test_bit_lines_lie_in_the_order_given(case: Case) -> None:
    natural = torch.arange(case.arch.tile[1])
    lie = case.layout().onto_lines(natural)
    assert lie.tolist() == [natural[line] for line in case.orders["lines"] or natural]
    assert torch.equal(case.layout().off_lines(lie), natural)


def test_an_order_given_back_by_its_inverse_is_none() -> None:
    order = torch.tensor([2, 0, 3, 1])
    assert invert(order).tolist() == [1, 3, 0, 2]
    assert torch.equal(order[invert(order)], torch.arange(4))


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize(
    "wrong",
    [
        [0, 0, 2],
        [1, 2, 3],
        [-1, 0, 1],
        [0.0, 1.0, 2.0],
        [True, False],
        [[[0, 1], [1, 0]]],
        torch.tensor(0),
        torch.tensor([1j]),
        torch.arange(300).to(torch.uint8),
        "natural",
        [None],
    ],
    ids=str,
)
def test_what_is_no_permutation_is_refused_by_name(name: str, wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"^{name}: got .*; it must be a permutation"):
        Arrangement.of(**{name: wrong})


@pytest.mark.parametrize(("name", "size"), [("outputs", 5), ("inputs", 6), ("lines", 12)])
def test_an_order_of_another_size_is_refused_by_name(name: str, size: int) -> None:
    arch = Architecture(tile=(4, 12), weight_bits=4)
    for count in (size - 1, size + 1):
        arrangement = Arrangement.of(**{name: range(count)})
        with pytest.raises(
            InputError, match=rf"^{name}: got an order of {count}; it must have the {size} entries of this matrix$"
        ):
            TileLayout(arch, inputs=6, outputs=5, arrangement=arrangement)


def test_whole_numbers_of_any_kind_are_orders() -> None:
    expected = Arrangement.of(outputs=[1, 0, 2])
    kinds: tuple[Any, ...] = (torch.tensor([1, 0, 2], dtype=torch.uint8), torch.tensor([1, 0, 2]).numpy(), (1, 0, 2))
    for given_order in kinds:
        found = Arrangement.of(outputs=given_order)
        assert found == expected
        assert found.outputs is not None
        assert found.outputs.dtype == torch.int64


def test_what_becomes_of_the_given_tensor_is_of_no_consequence() -> None:
    order = torch.tensor([1, 0, 2])
    arrangement = Arrangement.of(inputs=order)
    order.zero_()
    assert arrangement == Arrangement.of(inputs=[1, 0, 2])


def test_equal_orders_are_equal_and_each_of_the_three_counts() -> None:
    made = [Arrangement(), *(Arrangement.of(**{name: [1, 0]}) for name in ORDERS)]
    for one, other in itertools.product(made, made):
        assert (one == other) == (one is other)
    again = Arrangement.of(lines=torch.tensor([1, 0]))
    assert again == made[3]
    assert hash(again) == hash(made[3])
    assert again != "lines"
    assert [arrangement.natural for arrangement in made] == [True, False, False, False]


@given(cases())
@settings(max_examples=30)
def test_what_was_told_of_an_arrangement_makes_it_again(case: Case) -> None:
    arrangement = Arrangement.of(**case.orders)
    assert Arrangement.of(**arrangement.to_dict()) == arrangement
    assert Arrangement.from_numbers(arrangement.to_numbers()) == arrangement
    assert Arrangement.from_numbers([]).natural


def test_a_function_is_applied_to_the_orders_that_are_there() -> None:
    moved = Arrangement.of(outputs=[1, 0], lines=[0, 2, 1]).map_orders(lambda order: order.flip(0))
    assert moved == Arrangement.of(outputs=[0, 1], lines=[1, 2, 0])
