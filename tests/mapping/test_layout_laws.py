"""The laws that every layout of weights on tiles keeps, also a user's, beside torch's own layers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mapping import (
    LAYOUTS,
    Architecture,
    Arrangement,
    ConvGeometry,
    LayerLayout,
    Packing,
    TileLayout,
    check_layout,
    lay_out,
    register_layout,
    to_kernels,
)

ARCH = Architecture(tile=(8, 13), weight_bits=5, slice_bits=2, stream_bits=2)
MAP = (3, 5)


def mirrored(matrix: Tensor, architecture: Architecture, packing: Packing) -> TileLayout:
    """A user's layout: outputs lie in reverse order."""
    outputs, inputs = matrix.shape
    return TileLayout(architecture, inputs, outputs, Arrangement.of(outputs=range(outputs)[::-1]))


register_layout("flipped", tile=mirrored)


def layer(kind: str) -> nn.Module:
    """A layer of whole weights, some of its inputs and outputs pruned."""
    torch.manual_seed(3)
    made: nn.Module = (
        nn.Linear(19, 9, bias=False) if kind == "linear" else nn.Conv2d(4, 6, (1, 2), groups=2, bias=False)
    )
    weight = torch.randint(1, 9, made.weight.shape) * (torch.rand(made.weight.shape) - 0.5).sign()
    weight[2] = 0
    weight[:, 1] = 0
    made.weight = nn.Parameter(weight.double(), requires_grad=False)
    return made


def laid(kind: str, layout: str) -> tuple[nn.Module, LayerLayout, list[Tensor]]:
    """A layer, its layout, and what is programmed for each of its matrices."""
    made = layer(kind)
    geometry = None if kind == "linear" else ConvGeometry.of(made)  # type: ignore[arg-type]
    weight = made.weight[None] if geometry is None else to_kernels(made)  # type: ignore[index, arg-type]
    found = lay_out(weight, ARCH, layout, geometry, MAP)  # type: ignore[arg-type]
    return made, found, found.packing.blocks(weight)  # type: ignore[arg-type]


CASES = [(kind, layout) for kind in ("linear", "conv") for layout in (*LAYOUTS, "flipped")]


def arranged(tiles: TileLayout) -> Iterator[TileLayout]:
    """The layout itself, and all that an arrangement may make of it."""
    generator = torch.Generator().manual_seed(5)
    yield tiles
    lines = torch.randperm(13, generator=generator)
    yield dataclasses.replace(tiles, arrangement=Arrangement.of(lines=lines))
    if tiles.outputs_can_move:
        rows = torch.stack([torch.randperm(tiles.outputs, generator=generator) for _ in range(tiles.order_rows)])
        yield dataclasses.replace(tiles, arrangement=Arrangement.of(outputs=rows[0], lines=lines))
        yield dataclasses.replace(tiles, arrangement=Arrangement.of(outputs=rows))


def levels(tiles: TileLayout, block: Tensor) -> Tensor:
    """The weights on their cells, signs and all, as bit lines lie: the first slice w, the second 100 w."""

    def digits(part: Tensor) -> Tensor:
        return torch.stack([part, 100 * part], -1)[None]

    return tiles.onto_lines(tiles.levels(block, digits, None))


def numbers(tiles: TileLayout, block: Tensor) -> Tensor:
    """The weight at each place (row_tiles, 1, col_tiles, rows, places)."""
    return tiles.slices_of(tiles.off_lines(levels(tiles, block)))[..., 0]


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_what_is_placed_is_joined_again_to_the_layers_product(kind: str, layout: str) -> None:
    made, found, blocks = laid(kind, layout)
    x = torch.randint(-4, 5, (2, 19) if kind == "linear" else (2, 4, *MAP)).double()
    fields = x if kind == "linear" else found.packing.read_maps(x, ConvGeometry.of(made))[0]  # type: ignore[arg-type]
    products = []
    for part, tiles, block in zip(found.packing.split(fields), found.tiles, blocks, strict=True):
        whole = [tiles.join_weights(numbers(tiles, block))[0] for tiles in arranged(tiles)]
        assert whole[0].shape == (tiles.outputs, tiles.inputs)
        assert all(torch.equal(one, whole[0]) for one in whole)
        products.append(part @ whole[0].T)
    wanted = made(x) if kind == "linear" else made(x).flatten(2).transpose(1, 2)
    assert torch.equal(found.packing.join(products), wanted)


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_sums_of_tiles_are_the_matrix_product(kind: str, layout: str) -> None:
    _, found, blocks = laid(kind, layout)
    for first, block in zip(found.tiles, blocks, strict=True):
        whole = first.join_weights(numbers(first, block))[0]
        x = torch.randint(-4, 5, (3, first.inputs)).double()
        for tiles in arranged(first):
            on_tiles, split = numbers(tiles, block)[:, 0], tiles.split_inputs(x)
            sums = torch.einsum("vrk,rckp->vrcp", split, on_tiles)
            assert sums.shape[1:3] == tiles.stack
            assert torch.equal(tiles.join_outputs(tiles.add_tiles(sums)), x @ whole.T)
            cut = tiles.stack[0] // 2
            ends = [slice(0, cut), slice(cut, None)] if cut else [slice(None)]
            parts = [tiles.add_tiles(sums[:, at], at) for at in ends]
            assert torch.equal(tiles.join_outputs(sum(parts)), x @ whole.T)
            assert torch.equal(tiles.join_outputs(tiles.multiply(split, on_tiles.movedim(1, 2))), x @ whole.T)
            assert torch.equal(tiles.multiply_exactly(x, block), x @ whole.T)


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_every_held_weight_is_found_on_its_cell(kind: str, layout: str) -> None:
    _, found, blocks = laid(kind, layout)
    for first, block in zip(found.tiles, blocks, strict=True):
        whole = first.join_weights(numbers(first, block))[0]
        for tiles in arranged(first):
            cells, seen = levels(tiles, block), set()
            for output, input in itertools.product(range(tiles.outputs), range(tiles.inputs)):
                weight = whole[output, input].item()
                if tiles.held is not None and not tiles.held[output, input]:
                    assert weight == 0
                    with pytest.raises(InputError):
                        tiles.locate(output, input)
                    continue
                try:
                    row_tile, col_tile, row, (high, low) = tiles.locate(output, input)
                except InputError:
                    assert weight == 0
                    continue
                assert cells[row_tile, 0, col_tile, row, high] == weight
                assert cells[row_tile, 0, col_tile, row, low] == 100 * weight
                seen.add((row_tile, col_tile, row, high))
                seen.add((row_tile, col_tile, row, low))
            left = torch.ones_like(cells[:, 0], dtype=torch.bool)
            left[tuple(torch.tensor(sorted(seen)).T)] = False
            assert not cells[:, 0][left].any(), "weights are nowhere else"


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_layouts_survive_numbers_and_moves(kind: str, layout: str) -> None:
    _, found, blocks = laid(kind, layout)
    for first, block in zip(found.tiles, blocks, strict=True):
        for tiles in arranged(first):
            for again in (first.from_numbers(tiles.to_numbers()), tiles.map_indices(torch.clone)):
                assert again.to_numbers() == tiles.to_numbers()
                assert again.arrangement == tiles.arrangement
                assert torch.equal(levels(again, block), levels(tiles, block))
            there = tiles.relocate(tiles.off_lines(levels(tiles, block)), first)
            if tiles.arrangement.by_row == first.arrangement.by_row:
                assert torch.equal(there, first.off_lines(levels(first, block)))


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_counts_of_a_layout_agree_with_its_tensors(kind: str, layout: str) -> None:
    _, found, blocks = laid(kind, layout)
    cells = [levels(tiles, torch.ones_like(block)) for tiles, block in zip(found.tiles, blocks, strict=True)]
    assert found.tile_count == sum(part.shape[0] * part.shape[2] for part in cells)
    assert found.grid_count == sum(tiles.row_tiles * tiles.col_tiles for tiles in found.tiles)
    assert found.tile_count <= found.grid_count
    assert found.utilisation == pytest.approx(2 * found.weights / (found.tile_count * 8 * 13))
    assert [tiles.one_place_each for tiles in found.tiles] == [
        layout not in ("toeplitz", "compacted") or (kind, layout) == ("linear", "toeplitz") for _ in found.tiles
    ]
    assert found.by_values == (layout == "compacted")


def test_names_are_checked() -> None:
    check_layout("flipped")
    with pytest.raises(InputError, match=r"'woven'; it must be one of dense, block_diagonal, .*flipped"):
        check_layout("woven")
    with pytest.raises(InputError, match="geniex has a layout of that name"):
        register_layout("dense")
    with pytest.raises(InputError, match="must be an identifier"):
        register_layout("my layout")
