"""T: which tiles a pruned matrix takes, counted by hand and beside NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geniex.errors import InputError
from geniex.mapping import Architecture, Arrangement, CompactedTiles, TileLayout, compact

ARCH = Architecture(tile=(4, 6), weight_bits=5, slice_bits=2)
"""Three outputs of two slices on a tile."""


def bits(*rows: str) -> torch.Tensor:
    """A mask (outputs, inputs), x where a weight is."""
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


MASK = bits("x...x...", "........", "xx......", "....x..x", "x.......", "........", "x...x...")


def test_ways_by_hand() -> None:
    whole, columns, rows = (compact(MASK, ARCH, way) for way in ("matrix", "columns", "rows"))
    # Five outputs and the inputs 0, 1, 4, 7 are not 0 throughout.
    assert whole.inputs_of.tolist() == [[0, 1, 4, 7]] * 2
    assert whole.outputs_of.tolist() == [[0, 2, 3], [4, 6, 7]]
    # Of inputs 0 to 3 four outputs see any, of 4 to 7 three.
    assert columns.inputs_of.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert columns.outputs_of.tolist() == [[0, 2, 4], [6, 7, 7], [0, 3, 6]]
    # Outputs 0 to 2 see three inputs, 3 to 5 see three, 6 sees two.
    assert rows.inputs_of.tolist() == [[0, 1, 4, 8], [0, 4, 7, 8], [0, 4, 8, 8]]
    assert rows.outputs_of.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 7]]
    # In place of 2 x 3 tiles.
    assert [tiles.compression for tiles in (whole, columns, rows)] == [3.0, 2.0, 2.0]
    assert compact(MASK, ARCH).outputs_of.tolist() == whole.outputs_of.tolist()
    assert [tiles.tile_outputs for tiles in (whole, columns, rows)] == [5, 7, 7]
    assert whole.utilisation == 5 * 4 * 2 / (2 * 4 * 6)
    assert rows.utilisation == (3 * 3 + 3 * 3 + 1 * 2) * 2 / (3 * 4 * 6)
    assert (whole.stack, whole.grid, whole.order_rows) == ((2, 1), "2 in place of 2x3", 1)
    assert (columns.order_rows, rows.order_rows) == (2, 3)


def test_the_fewest_tiles_are_taken() -> None:
    columns, rows = torch.zeros(6, 8, dtype=torch.bool), torch.zeros(6, 8, dtype=torch.bool)
    columns[:3, :4] = columns[3:, 4:] = True
    found = compact(columns, ARCH)
    assert len(found.inputs_of) == 2
    rows[:3, ::2] = rows[3:, 1::2] = True
    assert compact(rows, ARCH).inputs_of.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [len(compact(rows, ARCH, way).inputs_of) for way in ("matrix", "columns", "rows")] == [4, 4, 2]


def test_a_full_matrix_keeps_its_grid_and_an_empty_one_a_tile() -> None:
    full, empty = torch.ones(7, 9, dtype=torch.bool), torch.zeros(7, 9, dtype=torch.bool)
    for way in ("matrix", "columns", "rows"):
        assert compact(full, ARCH, way).compression == 1.0
        assert compact(full, ARCH, way).held.all()
        assert len(compact(empty, ARCH, way).inputs_of) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 11),
    st.integers(1, 13),
    st.floats(0, 1),
    st.integers(0, 10**6),
    st.sampled_from(["matrix", "columns", "rows", None]),
)
def test_all_that_is_not_zero_is_held_once(outputs: int, inputs: int, share: float, seed: int, way: str | None) -> None:
    drawn = torch.Generator().manual_seed(seed)
    # Blocks of it, so that every way has something to leave out.
    blocks = torch.rand(-(-outputs // 3), -(-inputs // 2), generator=drawn) < share
    mask = blocks.repeat_interleave(3, 0)[:outputs].repeat_interleave(2, 1)[:, :inputs]
    tiles = compact(mask, ARCH, way)  # type: ignore[arg-type]
    times = np.zeros((outputs + 1, inputs + 1), int)
    for ins, outs in zip(tiles.inputs_of.numpy(), tiles.outputs_of.numpy(), strict=True):
        times[np.ix_(np.unique(outs), np.unique(ins))] += 1
    assert ((times[:-1, :-1] == 1) >= mask.numpy()).all()
    assert times[:-1, :-1].max() <= 1
    assert np.array_equal(tiles.held.numpy(), times[:-1, :-1] > 0)
    assert len(tiles.inputs_of) <= max(1, math.ceil(outputs / 3) * math.ceil(inputs / 4))


@pytest.mark.parametrize("way", ["matrix", "columns", "rows"])
@pytest.mark.parametrize("by_row", [False, True])
def test_numbers_come_back_from_their_tiles(way: str, by_row: bool) -> None:
    """Place and join are inverses, sums are the matrix product, whatever the order."""
    tiles = compact(MASK, ARCH, way)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    rows = tiles.order_rows if by_row else 1
    orders = torch.stack([torch.randperm(7, generator=generator) for _ in range(rows)])
    arranged = CompactedTiles(
        ARCH,
        8,
        7,
        Arrangement.of(outputs=orders if by_row else orders[0]),
        inputs_of=tiles.inputs_of,
        outputs_of=tiles.outputs_of,
    )
    weight = torch.randint(1, 9, (7, 8), generator=generator).double() * MASK
    for layout in (tiles, arranged):
        placed = layout.place(torch.stack([weight, torch.zeros_like(weight)], -1)[None])
        assert placed.shape == (len(tiles.inputs_of), 1, 1, 4, 6)
        numbers = placed[..., ::2]
        assert torch.equal(layout.join_weights(numbers)[0], weight)
        x = torch.randint(0, 5, (3, 8), generator=generator).double()
        split = layout.split_inputs(x)
        sums = torch.einsum("vtr,tro->vto", split, numbers[:, 0, 0])[:, :, None]
        assert torch.equal(layout.join_outputs(layout.add_tiles(sums)), x @ weight.T)
        parts = [layout.add_tiles(sums[:, at], at) for at in (slice(0, 1), slice(1, None))]
        assert torch.equal(layout.join_outputs(sum(parts)), x @ weight.T)
        assert torch.equal(layout.join_outputs(layout.multiply(split, numbers[:, 0].movedim(1, 2))), x @ weight.T)
        by_rows = layout.by_row(numbers.sum((1, 3)))
        assert torch.equal(by_rows.sum(0), weight.sum(1))
        again = tiles.from_numbers(layout.to_numbers())
        assert again == layout
        assert torch.equal(
            again.place(weight[None, ..., None].expand(1, 7, 8, 2)),
            layout.place(weight[None, ..., None].expand(1, 7, 8, 2)),
        )


@pytest.mark.parametrize("rows", [None, 3])
def test_natural_tiles_undo_the_orders_of_their_rows(rows: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(7, generator=generator) for _ in range(rows or 1)]
    inputs = torch.randperm(9, generator=generator)
    layout = TileLayout(
        ARCH, 9, 7, Arrangement.of(outputs=orders[0] if rows is None else torch.stack(orders), inputs=inputs)
    )
    weight = torch.randint(-8, 9, (7, 9), generator=generator).double()
    placed = layout.place(torch.stack([weight, weight], -1)[None])
    assert torch.equal(placed, layout.levels(weight, lambda part: torch.stack([part, part], -1)[None], None))
    numbers = placed[..., ::2]  # (row_tiles, 1, col_tiles, rows, places)
    for k in range(3):
        order = orders[k if rows else 0]
        there = weight[order][:, inputs[4 * k : 4 * k + 4]].T
        assert torch.equal(numbers[k, 0].movedim(0, 1).flatten(1)[: there.shape[0], :7], there)
    x = torch.randint(0, 5, (3, 9), generator=generator).double()
    split = layout.split_inputs(x)
    sums = torch.einsum("vrk,rckp->vrcp", split, numbers[:, 0])
    assert torch.equal(layout.join_weights(numbers)[0], weight)
    assert torch.equal(layout.join_outputs(layout.add_tiles(sums)), x @ weight.T)
    parts = [layout.add_tiles(sums[:, at], at) for at in (slice(0, 2), slice(2, None))]
    assert torch.equal(layout.join_outputs(parts[0] + parts[1]), x @ weight.T)
    assert torch.equal(layout.join_outputs(layout.multiply(split, numbers[:, 0].movedim(1, 2))), x @ weight.T)
    by_row = torch.stack([weight[:, inputs[4 * k : 4 * k + 4]].sum(1) for k in range(3)])
    assert torch.equal(layout.by_row(numbers.sum((1, 3))), by_row)
    for output, input in ((0, 0), (6, 8), (3, 5)):
        row_tile, col_tile, row, cols = layout.locate(output, input)
        assert placed[row_tile, 0, col_tile, row, cols[0]] == weight[output, input]


def test_arrangements_of_rows_survive_numbers_and_dictionaries() -> None:
    arrangement = Arrangement.of(outputs=[[1, 0, 2], [2, 1, 0]], lines=[1, 0])
    assert arrangement.by_row
    assert Arrangement.from_numbers(arrangement.to_numbers()) == arrangement
    assert Arrangement.of(**arrangement.to_dict()) == arrangement
    assert Arrangement.read_numbers([*arrangement.to_numbers(), 7, 8]) == (arrangement, [7, 8])
    assert not arrangement.natural


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("nonzero", lambda: compact(torch.zeros(3, 4), ARCH)),
        ("nonzero", lambda: compact(torch.zeros(0, 4, dtype=torch.bool), ARCH)),
        ("nonzero", lambda: compact(None, ARCH)),
        ("way", lambda: compact(MASK, ARCH, "tiles")),
        ("layout", lambda: compact(MASK, ARCH.replace(weight_bits=1, slice_bits=1))),
        ("inputs_of", lambda: CompactedTiles(ARCH, 8, 7)),
        (
            "inputs_of",
            lambda: CompactedTiles(ARCH, 8, 7, inputs_of=torch.full((1, 4), 9), outputs_of=torch.zeros(1, 3).long()),
        ),
        (
            "outputs_of",
            lambda: CompactedTiles(ARCH, 8, 7, inputs_of=torch.zeros(1, 4).long(), outputs_of=torch.zeros(2, 3).long()),
        ),
        ("outputs", lambda: TileLayout(ARCH, 8, 7, Arrangement.of(outputs=[list(range(7))] * 3))),
        ("outputs", lambda: TileLayout(ARCH, 8, 7, Arrangement.of(outputs=[list(range(6))] * 2))),
        ("outputs", lambda: Arrangement.of(outputs=[[0, 1], [0, 0]])),
    ],
)
def test_what_does_not_fit_is_told(name: str, make) -> None:
    with pytest.raises(InputError) as told:
        make()
    assert told.value.name == name


def test_a_full_last_tile_leaves_room_for_what_is_no_output() -> None:
    """Six outputs fill two tiles; on a third tile there are places without one."""
    mask = torch.ones(6, 8, dtype=torch.bool)
    mask[2:, 4:] = False
    tiles = compact(mask, ARCH, "columns")
    assert tiles.outputs_of.tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 6]]
    sums = torch.arange(9.0).reshape(1, 3, 1, 3)
    assert tiles.join_outputs(tiles.add_tiles(sums)).tolist() == [[6.0, 8.0, 2.0, 3.0, 4.0, 5.0]]


def test_bias_columns_are_on_the_word_lines_that_have_an_input() -> None:
    arch = Architecture(tile=(4, 8), weight_bits=4, slice_bits=2, weight_scheme="offset")
    tiles = compact(MASK, arch, "rows")
    placed = tiles.place(torch.ones(1, 7, 8, 2), torch.tensor([2.0, 1.0]))
    bias = tiles.bias_of(placed)[:, 0, 0]  # (tiles, rows, slices)
    has_input = (tiles.inputs_of < 8)[..., None]
    assert torch.equal(bias, torch.tensor([2.0, 1.0]) * has_input)
    assert not placed[:, 0, 0][~has_input[..., 0]].any()
