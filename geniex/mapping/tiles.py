"""Where a weight matrix lies on tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from geniex.errors import InputError
from geniex.mapping.architecture import Architecture
from geniex.mapping.arrangement import Arrangement, inverse


class Location(NamedTuple):
    """Where one weight lies: its tile in the grid, and there its word line and its bit lines, MSB first."""

    row_tile: int
    col_tile: int
    row: int
    cols: tuple[int, ...]


@dataclass(frozen=True)
class TileLayout:
    """A weight matrix (outputs, inputs) cut into a grid of row tiles by column tiles, zero-padded.

    Inputs run along word lines, outputs along bit lines, an output's slices side by side, then the bias columns of
    offset weights, last the reference column. Unused cells (padding, the reference column) hold level 0. All of that is
    the natural order, from which an ``arrangement`` departs.
    """

    architecture: Architecture
    inputs: int
    outputs: int
    arrangement: Arrangement = field(default_factory=Arrangement)

    def __post_init__(self) -> None:
        self.arrangement.check(outputs=self.outputs, inputs=self.inputs, cols=self.architecture.tile[1])

    @property
    def row_tiles(self) -> int:
        """Tiles that share an output, whose sums are added."""
        return math.ceil(self.inputs / self.architecture.tile[0])

    @property
    def col_tiles(self) -> int:
        """Tiles that share an input."""
        return math.ceil(self.outputs / self.architecture.outputs_per_tile)

    @property
    def utilisation(self) -> float:
        """Share of the cells that hold a slice of a weight."""
        rows, cols = self.architecture.tile
        cells = self.row_tiles * self.col_tiles * rows * cols
        return self.inputs * self.outputs * self.architecture.slices / cells

    def place(self, digits: Tensor, bias: Tensor | None = None) -> Tensor:
        """Slices (arrays, outputs, inputs, slices) as levels (row_tiles, arrays, col_tiles, rows, cols).

        ``bias`` (slices,) are the levels of the bias columns, on every word line that has an input. Bit lines are in
        their natural order: ``onto_lines`` puts them where they lie.
        """
        arch, (rows, cols) = self.architecture, self.architecture.tile
        digits = _taken(_taken(digits, self.arrangement.outputs, 1), self.arrangement.inputs, 2)
        arrays, per_tile = digits.shape[0], arch.outputs_per_tile
        pad_in = self.row_tiles * rows - self.inputs
        pad_out = self.col_tiles * per_tile - self.outputs
        x = F.pad(digits, (0, 0, 0, pad_in, 0, pad_out))
        x = x.reshape(arrays, self.col_tiles, per_tile, self.row_tiles, rows, arch.slices)
        x = x.permute(3, 0, 1, 4, 2, 5).reshape(self.row_tiles, arrays, self.col_tiles, rows, per_tile * arch.slices)
        x = F.pad(x, (0, arch.data_cols - per_tile * arch.slices))
        if bias is not None:
            columns = F.pad(bias.expand(self.inputs, -1), (0, 0, 0, pad_in)).reshape(self.row_tiles, 1, 1, rows, -1)
            x = torch.cat([x, columns.expand(*x.shape[:-1], -1)], dim=-1)
        return F.pad(x, (0, cols - x.shape[-1]))

    def split_inputs(self, x: Tensor) -> Tensor:
        """Features (..., inputs) as (..., row_tiles, rows)."""
        rows = self.architecture.tile[0]
        x = F.pad(_taken(x, self.arrangement.inputs, -1), (0, self.row_tiles * rows - self.inputs))
        return x.reshape(*x.shape[:-1], self.row_tiles, rows)

    def join_inputs(self, x: Tensor) -> Tensor:
        """(..., row_tiles, rows) as (..., inputs), as ``split_inputs`` was given them."""
        return _back(x.flatten(-2)[..., : self.inputs], self.arrangement.inputs)

    def relocated(self, cells: Tensor, new: TileLayout) -> Tensor:
        """What is on tiles (row_tiles, arrays, col_tiles, rows, cols) of this layout, put where ``new`` has it.

        Both have their bit lines in natural order, and weights on the same cells; what is on the others stays.
        """
        here, there = self._weights(cells.device), new._weights(cells.device)
        where = here.new_zeros(self.inputs * self.outputs * self.architecture.slices + 1)
        where = where.scatter_(0, here.flatten(), torch.arange(here.numel(), device=here.device))
        by_array = cells.movedim(1, 0)
        moved = by_array.flatten(1)[:, where[there.flatten()]].reshape(by_array.shape)
        return torch.where(there == 0, by_array, moved).movedim(0, 1)

    def _weights(self, device: torch.device) -> Tensor:
        """The number, from 1, of the slice of a weight in each cell (row_tiles, col_tiles, rows, cols); 0 is none."""
        shape = (1, self.outputs, self.inputs, self.architecture.slices)
        return self.place(torch.arange(1, math.prod(shape) + 1, device=device).reshape(shape))[:, 0]

    def slices_of(self, columns: Tensor) -> Tensor:
        """Bit lines (..., col_tiles, cols) as (..., col_tiles, outputs per tile, slices)."""
        per_tile, slices = self.architecture.outputs_per_tile, self.architecture.slices
        used = columns[..., : per_tile * slices]
        return used.reshape(*used.shape[:-1], per_tile, slices)

    def bias_of(self, columns: Tensor) -> Tensor:
        """Bit lines (..., col_tiles, cols) as (..., col_tiles, slices): the bias columns of offset weights."""
        start = self.architecture.data_cols
        return columns[..., start : start + self.architecture.bias_cols]

    def join_outputs(self, x: Tensor) -> Tensor:
        """(..., col_tiles, outputs per tile) as (..., outputs), in their natural order."""
        return _back(x.flatten(-2)[..., : self.outputs], self.arrangement.outputs)

    def onto_lines(self, columns: Tensor) -> Tensor:
        """Bit lines (..., cols) in the order in which they lie on a tile, from their natural order."""
        return _taken(columns, self.arrangement.lines, -1)

    def off_lines(self, columns: Tensor) -> Tensor:
        """Bit lines (..., cols) in their natural order, from that in which they lie on a tile."""
        return _back(columns, self.arrangement.lines)

    def locate(self, output: int, input: int) -> Location:
        """Where the weight from ``input`` to ``output`` lies, in each of the arrays."""
        for name, value, size in (("output", output, self.outputs), ("input", input, self.inputs)):
            if not 0 <= value < size:
                raise InputError(name, value, f"the matrix has {size} {name}s, from 0")
        orders = self.arrangement
        row_tile, row = divmod(_place(input, orders.inputs), self.architecture.tile[0])
        col_tile, place = divmod(_place(output, orders.outputs), self.architecture.outputs_per_tile)
        first = place * self.architecture.slices
        lines = (_place(first + k, orders.lines) for k in range(self.architecture.slices))
        return Location(row_tile, col_tile, row, tuple(lines))


def _taken(x: Tensor, order: Tensor | None, dim: int) -> Tensor:
    return x if order is None else x.index_select(dim, order)


def _back(x: Tensor, order: Tensor | None) -> Tensor:
    return x if order is None else x.index_select(-1, inverse(order))


def _place(index: int, order: Tensor | None) -> int:
    return index if order is None else int(inverse(order)[index])
