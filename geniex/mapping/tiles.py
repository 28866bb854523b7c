"""Where a weight matrix lies on tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from geniex.errors import InputError
from geniex.mapping.architecture import Architecture


class Location(NamedTuple):
    """Where one weight lies: its tile in the grid, and there its word line and its bit lines, MSB first."""

    row_tile: int
    col_tile: int
    row: int
    cols: tuple[int, ...]


@dataclass(frozen=True)
class TileLayout:
    """A weight matrix (outputs, inputs) cut into a grid of row tiles by column tiles, zero-padded.

    Inputs run along word lines, outputs along bit lines, an output's slices side by side. Unused bit lines
    (padding, the reference column) hold level 0.
    """

    architecture: Architecture
    inputs: int
    outputs: int

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

    def place(self, digits: Tensor) -> Tensor:
        """Slices (2, outputs, inputs, slices) as levels (row_tiles, 2, col_tiles, rows, cols)."""
        arch, (rows, cols) = self.architecture, self.architecture.tile
        per_tile = arch.outputs_per_tile
        pad_in = self.row_tiles * rows - self.inputs
        pad_out = self.col_tiles * per_tile - self.outputs
        x = F.pad(digits, (0, 0, 0, pad_in, 0, pad_out))
        x = x.reshape(2, self.col_tiles, per_tile, self.row_tiles, rows, arch.slices)
        x = x.permute(3, 0, 1, 4, 2, 5).reshape(self.row_tiles, 2, self.col_tiles, rows, per_tile * arch.slices)
        return F.pad(x, (0, cols - per_tile * arch.slices))

    def split_inputs(self, x: Tensor) -> Tensor:
        """Features (..., inputs) as (..., row_tiles, rows)."""
        rows = self.architecture.tile[0]
        x = F.pad(x, (0, self.row_tiles * rows - self.inputs))
        return x.reshape(*x.shape[:-1], self.row_tiles, rows)

    def slices_of(self, columns: Tensor) -> Tensor:
        """Bit lines (..., col_tiles, cols) as (..., col_tiles, outputs per tile, slices)."""
        per_tile, slices = self.architecture.outputs_per_tile, self.architecture.slices
        used = columns[..., : per_tile * slices]
        return used.reshape(*used.shape[:-1], per_tile, slices)

    def join_outputs(self, x: Tensor) -> Tensor:
        """(..., col_tiles, outputs per tile) as (..., outputs)."""
        return x.flatten(-2)[..., : self.outputs]

    def locate(self, output: int, input: int) -> Location:
        """Where the weight from ``input`` to ``output`` lies (in both the positive and the negative array)."""
        for name, value, size in (("output", output, self.outputs), ("input", input, self.inputs)):
            if not 0 <= value < size:
                raise InputError(name, value, f"the matrix has {size} {name}s, from 0")
        row_tile, row = divmod(input, self.architecture.tile[0])
        col_tile, place = divmod(output, self.architecture.outputs_per_tile)
        first = place * self.architecture.slices
        return Location(row_tile, col_tile, row, tuple(range(first, first + self.architecture.slices)))
