"""The circuits on which solvers and surrogates are timed, and tiles in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from geniex.cells import Cell, LinearCell, SinhCell
from geniex.circuit import Crossbar
from geniex.mapping import ConductanceWindow

CellName = Literal["linear", "sinh"]
CELLS: dict[CellName, Cell] = {"linear": LinearCell(), "sinh": SinhCell(v0=0.25)}


class Problem(NamedTuple):
    """One tile and its input vectors, in float64."""

    crossbar: Crossbar
    voltages: Tensor
    """Voltages (vectors, rows) [V]."""
    conductances: Tensor
    """Conductances (rows, cols) [S]."""

    def first(self, vectors: int) -> Problem:
        """The same tile with the first ``vectors`` inputs only."""
        return self._replace(voltages=self.voltages[:vectors])


@dataclass(frozen=True)
class Circuit:
    """Wires, terminals, conductance window and drive."""

    window: ConductanceWindow
    v_max: float
    """Largest voltage [V]; drives are uniform between 0 and this."""
    resistances: dict[str, float] = field(default_factory=dict)
    """Resistances of the crossbar that differ from the GENIEx nominal ones, ohm."""


_HARD = {"r_source": 1e3, "r_sink": 500.0, "r_wire": 10.0}
CIRCUITS = {
    "easy": Circuit(ConductanceWindow(100e3, 6.0), 0.25),
    "hard": Circuit(ConductanceWindow(25e3, 6.0), 0.5, _HARD),
    "hard 2 V": Circuit(ConductanceWindow(25e3, 6.0), 2.0, _HARD),
    # badcrossbar's driver and sense resistances are equal to those of the wire segments.
    "segments": Circuit(ConductanceWindow(100e3, 6.0), 0.25, {"r_source": 2.5, "r_sink": 2.5}),
}
"""Circuits by name; "easy" is the GENIEx nominal circuit."""


@dataclass(frozen=True)
class Case:
    """A square tile of uniformly random conductances in one of ``CIRCUITS``."""

    size: int
    cell: CellName
    circuit: str

    def __str__(self) -> str:
        return f"{self.size}x{self.size} {self.cell} {self.circuit}"

    @property
    def crossbar(self) -> Crossbar:
        """The circuit of the tile."""
        return Crossbar(self.size, self.size, cell=CELLS[self.cell], **CIRCUITS[self.circuit].resistances)

    def tiles(self, count: int, generator: torch.Generator) -> Tensor:
        """Random conductances (count, rows, cols) [S]."""
        window = CIRCUITS[self.circuit].window
        share = torch.rand(count, self.size, self.size, dtype=torch.float64, generator=generator)
        return window.g_off + (window.g_on - window.g_off) * share

    def problem(self, vectors: int, seed: int) -> Problem:
        """One random tile and its random inputs."""
        generator = torch.Generator().manual_seed(seed)
        tile = self.tiles(1, generator)[0]
        drive = torch.rand(vectors, self.size, dtype=torch.float64, generator=generator)
        return Problem(self.crossbar, CIRCUITS[self.circuit].v_max * drive, tile)
