"""Unrolled convolutions: the matrix that torch's convolution is, found by pushing single pixels through it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mapping import Architecture, Arrangement, ToeplitzTiles, Unrolling, to_kernels

ARCH = Architecture(tile=(8, 6), weight_bits=5, slice_bits=4)
"""One slice a weight: six outputs on a tile."""

CASES: list[tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv1d, {}, (11,)),
    (nn.Conv1d, {"stride": 3, "padding": 1, "groups": 2}, (11,)),
    (nn.Conv1d, {"padding": "same", "padding_mode": "circular", "groups": 4}, (9,)),
    (nn.Conv2d, {"padding": (1, 2), "padding_mode": "replicate", "stride": 2}, (5, 6)),
    (nn.Conv2d, {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 2)}, (5, 7)),
    (nn.Conv2d, {"padding": 1, "stride": 3, "groups": 4}, (7, 5)),
    (nn.Conv2d, {"padding": 2, "padding_mode": "reflect"}, (4, 5)),
    (nn.Conv2d, {"padding": "same", "dilation": 2, "groups": 2}, (4, 5)),
    (nn.Conv3d, {"padding": (1, 0, 1), "stride": (1, 2, 1)}, (3, 4, 3)),
    (nn.ConvTranspose1d, {"stride": 3, "output_padding": 2, "dilation": 2, "groups": 2}, (5,)),
    (nn.ConvTranspose2d, {"stride": (3, 2), "padding": (0, 2), "output_padding": (2, 0)}, (3, 4)),
    (nn.ConvTranspose2d, {"padding": 2, "groups": 4}, (4, 5)),
]


def case(kind: type[nn.Module], options: dict[str, Any], size: tuple[int, ...]) -> tuple[Any, Unrolling]:
    """A convolution of whole weights, none of them 0, and its unrolling."""
    torch.manual_seed(0)
    conv = kind(4, 8, (3, 2, 2)[: len(size)], bias=False, **options).double()
    conv.weight.data = torch.randint(1, 16, conv.weight.shape).double() * (torch.rand(conv.weight.shape) - 0.5).sign()
    return conv, Unrolling.of(conv, ARCH, size)


def tiles_of(unrolling: Unrolling) -> ToeplitzTiles:
    outputs, inputs = unrolling.shapes[0]
    tiles = ToeplitzTiles(ARCH, inputs, outputs, unrolling=unrolling)
    return tiles


def placed(conv: Any, unrolling: Unrolling) -> Tensor:
    """The weights on the tiles (tiles, 1, 1, rows, outputs), signs and all."""
    (weight,) = unrolling.blocks(to_kernels(conv).detach())
    tiles = tiles_of(unrolling)
    levels = tiles.levels(weight, lambda part: part[None, ..., None], None)
    assert levels.shape == (len(tiles.row_of), 1, 1, *ARCH.tile)
    return tiles.slices_of(levels)[..., 0]


def one_by_one(conv: Any, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Maps with one pixel of 1 each, and what torch's convolution makes of them (maps, positions * channels)."""
    count = 4 * int(torch.tensor(size).prod())
    maps = torch.eye(count, dtype=torch.float64).reshape(count, 4, *size)
    with torch.no_grad():
        return maps, conv(maps).flatten(2).transpose(1, 2).flatten(1)


@pytest.mark.parametrize(("kind", "options", "size"), CASES, ids=str)
def test_the_matrix_is_the_convolution(kind: type[nn.Module], options: dict[str, Any], size: tuple[int, ...]) -> None:
    conv, unrolling = case(kind, options, size)
    matrix = tiles_of(unrolling).join_weights(placed(conv, unrolling))[0]
    maps, expected = one_by_one(conv, size)
    assert unrolling.shapes == [tuple(matrix.shape)]
    assert torch.equal(unrolling.vectors(maps) @ matrix.T, expected)
    assert unrolling.output_size == conv(maps).shape[2:]
    (joined,) = {tuple(unrolling.join([expected]).shape)}
    assert joined == (len(maps), unrolling.positions, 8)
    # The digital product, by which "ideal" gradients go, is the same one.
    (weight,) = unrolling.blocks(to_kernels(conv).detach())
    assert torch.equal(tiles_of(unrolling).multiply_exactly(unrolling.vectors(maps), weight), expected)
    assert torch.equal(unrolling.unblock([weight]), to_kernels(conv).detach())


@pytest.mark.parametrize(("kind", "options", "size"), CASES, ids=str)
def test_there_are_the_tiles_that_hold_a_weight(
    kind: type[nn.Module], options: dict[str, Any], size: tuple[int, ...]
) -> None:
    """No tile of zeros has an array, every other one has; no word line is without a weight."""
    conv, unrolling = case(kind, options, size)
    tiles = tiles_of(unrolling)
    on_tiles = placed(conv, unrolling)
    assert (on_tiles != 0).flatten(1).any(1).all()
    matrix = tiles.join_weights(on_tiles)[0]
    held = sum(
        bool((part != 0).any()) for band in matrix.split(ARCH.outputs_per_tile) for part in band.split(ARCH.tile[0], 1)
    )
    assert tiles.stack == (held, 1)
    assert (matrix != 0).any(0).all()
    assert unrolling.weights == int((matrix != 0).sum())
    assert tiles.utilisation == pytest.approx(unrolling.weights / (held * ARCH.tile[0] * ARCH.tile[1]))
    last = tiles.outputs - (tiles.col_tiles - 1) * 6
    assert tiles.tile_outputs == sum(last if int(c) == tiles.col_tiles - 1 else 6 for c in tiles.col_of)


def test_word_lines_and_tiles_by_hand() -> None:
    """Kernels of 3 on a line of 10: 8 positions of 2 outputs, 3 to a tile of 6 bit lines, which see 5 inputs each."""
    conv = nn.Conv1d(1, 2, 3)
    tiles = tiles_of(Unrolling.of(conv, ARCH, (10,)))
    assert (tiles.inputs, tiles.outputs, tiles.row_tiles, tiles.col_tiles) == (10, 16, 2, 3)
    # Positions 0-2 see inputs 0-4; 3-5 see 3-7; 6 and 7 see 6-9, of which 8 and 9 are on the second row of tiles.
    assert list(zip(tiles.row_of.tolist(), tiles.col_of.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 2)]
    assert tiles.grid == "4 of 2x3"
    # A stride of 2 with kernels of 1 never sees every other input: those have no word line.
    assert Unrolling.of(nn.Conv1d(3, 2, 1, stride=2), ARCH, (10,)).shapes == [(10, 15)]
    # Steps of 4 with kernels of 2 see two of four, which no slice can take out.
    apart = Unrolling.of(nn.Conv1d(1, 1, 2, stride=4), ARCH, (10,))
    assert apart.vectors(torch.arange(10.0).reshape(1, 1, 10)).tolist() == [[0, 1, 4, 5, 8, 9]]
    # Zero padding has no word line, copies have.
    assert Unrolling.of(nn.Conv1d(1, 1, 3, padding=1), ARCH, (10,)).features == 10
    assert Unrolling.of(nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect"), ARCH, (10,)).features == 12


def test_signs_alone_have_padding_on_word_lines() -> None:
    """One-bit inputs are -1 and +1: what is padded with 0 is +1, in the dense layout too."""
    signs = ARCH.replace(input_bits=1)
    assert Unrolling.of(nn.Conv1d(1, 1, 3, padding=1), signs, (10,)).features == 12
    assert Unrolling.of(nn.Conv1d(1, 1, 3, padding=1), signs.replace(input_scheme="unsigned"), (10,)).features == 10


def test_every_weight_is_where_it_is_said_to_be() -> None:
    conv, unrolling = case(nn.Conv2d, {"padding": 1, "groups": 2}, (4, 3))
    on_tiles = placed(conv, unrolling)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    (tiles,) = (tiles_of(unrolling),)
    matrix = tiles.join_weights(on_tiles)[0]
    arranged = ToeplitzTiles(ARCH, tiles.inputs, tiles.outputs, Arrangement.of(lines=order), unrolling)
    lines = arranged.onto_lines(on_tiles)
    for output, input in torch.nonzero(matrix).tolist():
        at = arranged.locate(output, input)
        assert lines[at.row_tile, 0, at.col_tile, at.row, at.cols[0]] == matrix[output, input]
    with pytest.raises(InputError, match="no array holds its weight to output 0, which is 0"):
        tiles.locate(0, tiles.inputs - 1)
    with pytest.raises(InputError, match="between 0 and"):
        tiles.locate(0, tiles.inputs)


def test_bias_columns_stand_on_every_word_line_with_an_input() -> None:
    """Offset weights: what is between weights is the weight 0, which is half of the levels; no input, no level."""
    arch = ARCH.replace(weight_scheme="offset", weight_bits=4, tile=(8, 7))
    unrolling = Unrolling.of(nn.Conv1d(1, 2, 3), arch, (10,))
    outputs, inputs = unrolling.shapes[0]
    tiles = ToeplitzTiles(arch, inputs, outputs, unrolling=unrolling)
    levels = tiles.levels(torch.ones(2, 3), lambda part: (part + 8)[None, ..., None], torch.full((1,), 8.0))
    (last,) = levels[3, 0]  # inputs 8 and 9, positions 6 and 7
    assert last[:, 6].tolist() == [8, 8, 0, 0, 0, 0, 0, 0]
    # Position 6 sees input 8 alone of the two, position 7 both; the other two places have no output.
    assert last[:2, :6].tolist() == [[9, 9, 9, 9, 0, 0], [8, 8, 9, 9, 0, 0]]
    assert not last[2:].any()


def test_sizes_that_cannot_be_are_named() -> None:
    conv = nn.Conv2d(1, 2, 3)
    for size in ((8,), (8, 0), (8, 8.0), 8, (8, True)):
        with pytest.raises(InputError, match=r"map size: .*it must be the 2 whole numbers of a map"):
            Unrolling.of(conv, ARCH, size)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"map size: got \(8, 2\); a kernel of \(3, 3\) must fit"):
        Unrolling.of(conv, ARCH, (8, 2))
    with pytest.raises(InputError, match="layout: got 'toeplitz'; one-bit weights have no 0"):
        Unrolling.of(conv, ARCH.replace(weight_bits=1), (8, 8))
    unrolling = Unrolling.of(conv, ARCH, (8, 8))
    with pytest.raises(InputError, match=r"input: got maps of \(8, 9\); .*unrolled for maps of \(8, 8\)"):
        unrolling.vectors(torch.zeros(1, 1, 8, 9))
    with pytest.raises(InputError, match="reorder bit lines only"):
        ToeplitzTiles(ARCH, 64, 72, Arrangement.of(inputs=range(64)), unrolling)


def test_layouts_of_other_maps_are_others() -> None:
    one, other = (Unrolling.of(nn.Conv1d(1, 2, 3, padding=p), ARCH, (10 + 2 - 2 * p,)) for p in (0, 1))
    assert tiles_of(one) == copy.deepcopy(tiles_of(one))
    assert tiles_of(one) != tiles_of(other)
