"""The circuit around each tile as tensors, from which physics surrogates are programmed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.cells import Cell
from geniex.circuit import Crossbar, Wires
from geniex.sweep import TileCircuits


@dataclass(frozen=True)
class Circuit:
    """The circuit around tiles (tiles, rows, cols): one for all of them, or one for each."""

    wires: Wires
    """Resistances in ohm, numbers or (tiles,)."""
    cell: Cell
    """I-V model of the cells; tensors among its fields are (tiles,)."""
    v_max: float | Tensor
    """Highest driver voltage, volt, a number or (tiles,)."""

    @classmethod
    def of(cls, crossbar: Crossbar, v_max: float) -> Circuit:
        """The circuit of a crossbar driven up to ``v_max`` volt."""
        return cls(crossbar.wires, crossbar.cell, v_max)

    @classmethod
    def of_tiles(cls, circuits: TileCircuits) -> Circuit:
        """The circuits of tiles from a sweep file."""
        wires = Wires(circuits.r_source, circuits.r_sink, circuits.r_row, circuits.r_col)
        return cls(wires, circuits.cell.map_tensors(lambda r: r.flatten()), circuits.v_max)

    def part(self, at: slice) -> Circuit:
        """The circuit of the tiles in the slice ``at``."""

        def pick(value: float | Tensor) -> float | Tensor:
            return value[at] if isinstance(value, Tensor) and value.dim() else value

        wires = Wires(*(pick(r) for r in vars(self.wires).values()))
        return Circuit(wires, self.cell.map_tensors(lambda r: torch.as_tensor(pick(r))), pick(self.v_max))

    def scalars(self, like: Tensor) -> list[Tensor]:
        """Source, sink, row and column resistances and ``v_max``, each (tiles | 1, 1, 1), in ``like``'s dtype."""
        values = (*vars(self.wires).values(), self.v_max)
        return [torch.as_tensor(x, dtype=like.dtype, device=like.device).reshape(-1, 1, 1) for x in values]
