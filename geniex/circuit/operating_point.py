"""The operating point of a crossbar: node voltages, driver currents, and where the power goes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from geniex.cells import Cell
from geniex.circuit.solve.driver import OnFailure, solve_cells
from geniex.circuit.wires import Wires
from geniex.config import check_number, warn_unit

_USUAL_READ_TIME = 1e-2
"""Longest usual read, second; reads take nanoseconds to microseconds."""


@dataclass(frozen=True)
class OperatingPoint:
    """The solved circuit, as tensors whose leading dimensions are those of voltages and conductances, broadcast."""

    cell_voltages: Tensor
    """Word-line minus bit-line voltage at each cell (..., rows, cols) [V]."""
    cell_currents: Tensor
    """Cell currents from word line to bit line (..., rows, cols) [A]."""
    word_line_voltages: Tensor
    """Voltage r of each cell's node on its word line (..., rows, cols) [V]."""
    bit_line_voltages: Tensor
    """Voltage c of each cell's node on its bit line (..., rows, cols) [V]."""
    row_currents: Tensor
    """Current drawn from each driver (..., rows) [A]; negative where the driver sinks current."""
    currents: Tensor
    """Column currents, as ``Crossbar.solve`` returns them (..., cols) [A]."""
    power: Tensor
    """Power delivered by the drivers (...) [W]; the sum of the three fields that follow."""
    cell_power: Tensor
    """Power turned to heat in the cells (...) [W]."""
    wire_power: Tensor
    """Power turned to heat in the wires between cells (...) [W]."""
    terminal_power: Tensor
    """Power turned to heat in the driver and sense resistances (...) [W]."""

    def energy(self, read_time: float) -> Tensor:
        """Energy of one read of ``read_time`` seconds (...) [J], from static power only; no capacitance is charged."""
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
    """The circuit solved for V (..., rows) [V] and G (..., rows, cols) [S]; the arguments are those of ``solve_cells``.

    All fields follow from the cells' currents and voltages, and gradients pass through all of them.
    """
    currents, u = solve_cells(voltages, conductances, cell, wires, tol=tol, on_failure=on_failure)
    cells = cell.current(u, conductances)
    # Currents through the segment before each word-line node (the first is the driver's), and after each bit-line node.
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
