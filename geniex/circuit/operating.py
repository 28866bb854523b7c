"""What a crossbar does at one drive: voltages at the nodes, currents from the drivers, where the power goes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from geniex.cells import Cell
from geniex.circuit.native import OnFailure, solve_cells
from geniex.circuit.wires import Wires
from geniex.config import check_number, warn_unit

_USUAL_READ_TIME = 1e-2
"""Seconds; reads take nanoseconds to microseconds."""


@dataclass(frozen=True)
class OperatingPoint:
    """The solved circuit: tensors with the leading dimensions of voltages and conductances, broadcast."""

    cell_voltages: Tensor
    """Word-line minus bit-line voltage at each cell (..., rows, cols) [V]."""
    cell_currents: Tensor
    """From word line to bit line (..., rows, cols) [A]."""
    word_line_voltages: Tensor
    """At each cell's node on its word line, r (..., rows, cols) [V]."""
    bit_line_voltages: Tensor
    """At each cell's node on its bit line, c (..., rows, cols) [V]."""
    row_currents: Tensor
    """Drawn from each driver (..., rows) [A]; negative where a driver takes current up."""
    currents: Tensor
    """Out of each column, what ``Crossbar.solve`` returns (..., cols) [A]."""
    power: Tensor
    """Delivered by the drivers (...) [W]; the sum of the three that follow."""
    cell_power: Tensor
    """Turned to heat in the cells (...) [W]."""
    wire_power: Tensor
    """Turned to heat in the wires between cells (...) [W]."""
    terminal_power: Tensor
    """Turned to heat in the drivers' and the sense resistances (...) [W]."""

    def energy(self, read_time: float) -> Tensor:
        """Energy of one read of ``read_time`` seconds (...) [J]: static power only, no capacitance is charged."""
        check_number("read_time", read_time, low=0.0, unit="s")
        if read_time > _USUAL_READ_TIME:
            warn_unit("read_time", read_time, "s", "reads take nanoseconds; is this in nanoseconds?")
        return self.power * read_time


def operating_point(
    voltages: Tensor,
    conductances: Tensor,
    cell: Cell,
    wires: Wires,
    *,
    tol: float | None = None,
    on_failure: OnFailure = "raise",
) -> OperatingPoint:
    """The circuit solved for V (..., rows) [V] and G (..., rows, cols) [S]; arguments as of ``solve_cells``.

    All of it follows from the cells' currents, and gradients pass through all of it.
    """
    currents, u = solve_cells(voltages, conductances, cell, wires, tol=tol, on_failure=on_failure)
    cells = cell.current(u, conductances)
    # Through the segment before each word-line node (the driver's first), and after each bit-line node.
    word = cells.flip(-1).cumsum(-1).flip(-1)
    bit = cells.cumsum(-2)
    rows = word[..., 0]
    return OperatingPoint(
        cell_voltages=u,
        cell_currents=cells,
        word_line_voltages=voltages[..., None] - wires.row_drop(cells),
        bit_line_voltages=wires.col_drop(cells),
        row_currents=rows,
        currents=currents,
        power=(voltages * rows).sum(-1),
        cell_power=(u * cells).sum((-2, -1)),
        wire_power=wires.r_row * word[..., 1:].square().sum((-2, -1))
        + wires.r_col * bit[..., :-1, :].square().sum((-2, -1)),
        terminal_power=wires.r_source * rows.square().sum(-1) + wires.r_sink * currents.square().sum(-1),
    )
