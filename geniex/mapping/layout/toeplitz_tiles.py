"""Tiles of an unrolled convolution: the tiles of the grid that hold a weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geniex.errors import InputError
from geniex.mapping.architecture import Architecture
from geniex.mapping.layout.convolution import ConvGeometry
from geniex.mapping.layout.grid import Digits, Location, TileLayout
from geniex.mapping.layout.grouped import Packing, register_layout
from geniex.mapping.layout.placement import Arrangement
from geniex.mapping.layout.toeplitz import Unrolling

_CELLS_AT_ONCE = 1 << 21
"""Product of outputs and word lines whose levels are assembled at once."""


@dataclass(frozen=True)
class ToeplitzTiles(TileLayout):
    """The tiles of a matrix that is mostly 0: the grid without the tiles that hold no weight.

    In programmed tensors the first dimension numbers the remaining tiles, row tile by row tile, and the dimension of
    column tiles has size 1. Word lines and bit lines are otherwise those of ``TileLayout``. Inputs and outputs keep
    their order, and cells between weights on a tile hold the weight 0.
    """

    unrolling: Unrolling = None  # type: ignore[assignment]
    """The convolution's matrix."""
    row_of: Tensor = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    """Row of each tile in the grid, int64 (tiles,)."""
    col_of: Tensor = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    """Column of each tile in the grid, int64 (tiles,)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arrangement.inputs is not None or self.arrangement.outputs is not None:
            allowed = "an unrolled convolution keeps inputs and outputs by position: reorder bit lines only"
            raise InputError("arrangement", "an order of inputs or outputs", allowed)
        if self.row_of is None:
            for name, index in zip(("row_of", "col_of"), np.nonzero(self._used()), strict=True):
                object.__setattr__(self, name, torch.tensor(index, device="cpu"))

    @property
    def outputs_can_move(self) -> bool:
        """False, because outputs lie by position."""
        return False

    @property
    def one_place_each(self) -> bool:
        """False, because a channel has a place for each position."""
        return False

    @property
    def stack(self) -> tuple[int, int]:
        """The tiles with a weight, in one column."""
        return len(self.row_of), 1

    @property
    def tile_outputs(self) -> int:
        """Number of outputs of all tiles, each counted on every tile that holds it."""
        per_tile = self.architecture.outputs_per_tile
        used = self._used()
        return int(used.sum()) * per_tile - int(used[:, -1].sum()) * (self.col_tiles * per_tile - self.outputs)

    @property
    def utilisation(self) -> float:
        """Share of the cells that hold a slice of a weight."""
        cells = len(self.row_of) * math.prod(self.architecture.tile)
        return self.unrolling.weights * self.architecture.slices / cells

    @property
    def grid(self) -> str:
        """The number of tiles in words, for reports."""
        return f"{self.stack[0]} of {super().grid}"

    def levels(self, weight: Tensor, digits: Digits, bias: Tensor | None) -> Tensor:
        """Levels (tiles, arrays, 1, rows, cols) of kernels (groups * outputs, inputs of a group)."""
        stored, zero = digits(weight).flatten(1, 2), digits(weight.new_zeros(1, 1))[:, :1, 0]
        choices = torch.cat([stored, zero, torch.zeros_like(zero)], dim=1)  # the last: a cell without input or output
        at_once = max(1, _CELLS_AT_ONCE // (self.architecture.tile[0] * self.architecture.outputs_per_tile))
        taps = torch.tensor(self.unrolling.taps, device=weight.device, dtype=torch.int64)
        rows, cols = (index.to(weight.device).split(at_once) for index in (self.row_of, self.col_of))
        return torch.cat([self._placed(choices, taps, r, c, bias) for r, c in zip(rows, cols, strict=True)])

    def split_inputs(self, x: Tensor) -> Tensor:
        """Features (..., inputs) as each tile sees them (..., tiles, rows)."""
        return super().split_inputs(x).index_select(-2, self.row_of)

    def add_tiles(self, sums: Tensor, at: slice | None = None) -> Tensor:
        """Sums (vectors, tiles, 1, outputs) of the tiles ``at``, added by column (vectors, col_tiles, outputs)."""
        total = sums.new_zeros(len(sums), self.col_tiles, sums.shape[-1])
        return total.index_add(1, self.col_of if at is None else self.col_of[at], sums[:, :, 0])

    def multiply(self, split: Tensor, weights: Tensor) -> Tensor:
        """Products (vectors, col_tiles, outputs) of (vectors, tiles, rows) and weights (tiles, rows, 1, outputs)."""
        return self.add_tiles(torch.einsum("vtr,tro->vto", split, weights[:, :, 0])[:, :, None])

    def by_output(self, gain: Tensor) -> Tensor:
        """The gain of each output, from a gain of each channel (channels,) or one of all of them ()."""
        return gain.repeat(self.unrolling.positions) if gain.dim() else gain

    def multiply_exactly(self, x: Tensor, weight: Tensor) -> Tensor:
        """The exact digital product (vectors, outputs) of inputs (vectors, inputs) and the kernels ``weight``."""
        found = self.unrolling
        sites = torch.tensor(found.sites_of_fields, device=x.device)
        by_site = F.pad(x.unflatten(-1, (found.sites, found.channels)), (0, 0, 0, 1))
        fields = by_site.index_select(1, sites.flatten()).unflatten(1, sites.shape)  # (v, positions, kernel, channels)
        fields = fields.unflatten(-1, (found.groups, -1)).permute(0, 1, 3, 4, 2).flatten(3)
        return torch.einsum("vpgi,goi->vpgo", fields, found.unblock([weight])).flatten(1)

    def join_weights(self, numbers: Tensor) -> Tensor:
        """The matrix (arrays, outputs, inputs) whose parts (tiles, arrays, 1, rows, outputs) are on the tiles."""
        whole = numbers.new_zeros(self.row_tiles, self.col_tiles, *numbers.shape[1:])
        whole[self.row_of, self.col_of] = numbers
        return super().join_weights(whole[:, :, :, 0].transpose(1, 2))

    def relocate(self, cells: Tensor, new: TileLayout) -> Tensor:
        """``cells`` unchanged: layouts with bit lines in natural order have all weights in the same place."""
        return cells

    def map_indices(self, function: Callable[[Tensor], Tensor]) -> TileLayout:
        """The layout with ``function`` applied to all orders and indices."""
        row_of, col_of = function(self.row_of), function(self.col_of)
        return dataclasses.replace(
            self, arrangement=self.arrangement.map_orders(function), row_of=row_of, col_of=col_of
        )

    def locate(self, output: int, input: int) -> Location:
        """The location of the cell from ``input`` to ``output``: ``row_tile`` is the tile's number, ``col_tile`` 0."""
        grid = TileLayout(self.architecture, self.inputs, self.outputs, Arrangement(lines=self.arrangement.lines))
        there = grid.locate(output, input)
        found = torch.nonzero((self.row_of == there.row_tile) & (self.col_of == there.col_tile)).flatten().tolist()
        if not found:
            raise InputError("input", input, f"no array holds its weight to output {output}, which is 0")
        return there._replace(row_tile=found[0], col_tile=0)

    def _used(self) -> Any:
        """Whether each tile of the grid holds a weight, bool (row_tiles, col_tiles)."""
        found, (rows, _), per_tile = self.unrolling, self.architecture.tile, self.architecture.outputs_per_tile
        position, site = np.nonzero(found.taps >= 0)
        group = np.arange(found.groups)
        ins, outs = found.channels // found.groups, found.outputs
        row = _tiles_of(site[:, None] * found.channels + group * ins, ins, rows)
        col = _tiles_of(position[:, None] * found.groups * outs + group * outs, outs, per_tile)
        used = np.zeros((self.row_tiles, self.col_tiles), bool)
        used[row[..., :, None], col[..., None, :]] = True
        return used

    def _placed(self, choices: Tensor, taps: Tensor, row: Tensor, col: Tensor, bias: Tensor | None) -> Tensor:
        """Levels (tiles, arrays, 1, rows, cols) of the tiles at ``row`` and ``col`` of the grid, from ``choices``."""
        arch, (rows, cols) = self.architecture, self.architecture.tile
        input = row[:, None] * rows + torch.arange(rows, device=row.device)
        output = col[:, None] * arch.outputs_per_tile + torch.arange(arch.outputs_per_tile, device=row.device)
        which = self._choice(taps, input[:, :, None], output[:, None, :], choices.shape[1] - 2)
        x = choices.index_select(1, which.flatten()).unflatten(1, which.shape)  # (arrays, tiles, rows, outputs, slices)
        x = F.pad(x.flatten(-2).transpose(0, 1), (0, arch.data_cols - arch.outputs_per_tile * arch.slices))
        if bias is not None:
            columns = bias * (input < self.inputs)[..., None]
            x = torch.cat([x, columns[:, None].expand(*x.shape[:-1], -1)], dim=-1)
        return F.pad(x, (0, cols - x.shape[-1]))[:, :, None]

    def _choice(self, taps: Tensor, input: Tensor, output: Tensor, weights: int) -> Tensor:
        """The number of the weight between inputs and outputs, which broadcast.

        The number ``weights`` stands for the weight 0, and one more for a word line or an output that does not exist.
        """
        found = self.unrolling
        exists = (input < self.inputs) & (output < self.outputs)
        site, channel = input.clamp(max=self.inputs - 1) // found.channels, input % found.channels
        of_all = found.groups * found.outputs
        position, kernel = output.clamp(max=self.outputs - 1) // of_all, output % of_all
        tap, ins = taps[position, site], found.channels // found.groups
        seen = (tap >= 0) & (channel // ins == kernel // found.outputs)
        number = kernel * found.inputs + channel % ins * (found.inputs // ins) + tap
        return torch.where(exists, torch.where(seen, number, weights), weights + 1)


def _tiles_of(first: Any, count: int, size: int) -> Any:
    """The tiles (..., most), each of ``size`` lines, that hold ``count`` lines from ``first`` on.

    The last tile is repeated where there are fewer than ``most``.
    """
    low, high = first // size, (first + count - 1) // size
    return np.minimum(low[..., None] + np.arange(int((high - low).max()) + 1), high[..., None])


def _pack_unrolled(
    weight: Tensor, architecture: Architecture, geometry: ConvGeometry | None, size: tuple[int, ...] | None
) -> Unrolling:
    if size is None:
        allowed = "layout 'toeplitz' needs the size of the maps: calibrate, or give LayerRule(map_size=(rows, cols))"
        raise InputError("map_size", None, allowed)
    assert geometry is not None
    groups, outputs, inputs = weight.shape
    return Unrolling.of_kernels(geometry, (groups, outputs, inputs), architecture, size)


def _tile_unrolled(block: Tensor, architecture: Architecture, packing: Packing) -> TileLayout:
    if not isinstance(packing, Unrolling):  # a layer without positions
        return TileLayout(architecture, inputs=block.shape[1], outputs=block.shape[0])
    outputs, inputs = packing.shapes[0]
    return ToeplitzTiles(architecture, inputs=inputs, outputs=outputs, unrolling=packing)


register_layout("toeplitz", pack=_pack_unrolled, tile=_tile_unrolled, unrolls=True)
