"""The netlist of a crossbar: a frame of drivers, wires and ammeters, and the cells of one tile.

Row i is driven by the voltage source ``Vdrive<i>``; column j ends in the ammeter ``Vsense<j>``, a source of 0 V
whose branch current is the column current. ngspice turns a resistor of 0 Ohm into 1 mOhm, so nodes that a
zero resistance joins are one node here. Wires connect every node to a driver or to an ammeter, so no open cell, row
or column leaves a node floating.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from geniex.cells import Cell
from geniex.circuit.spice.worker import missing_pyspice
from geniex.circuit.wires import Wires

_OPTIONS = ".options reltol=1e-9 vntol=1e-12 abstol=1e-12 itl1=500 gmin=1e-30"
"""Tolerances with which ngspice's Newton iteration stops, by relative change, volt and ampere; at most 500 iterations.

By then it has converged to rounding, because its error squares in every iteration. Tighter tolerances may never be
met: wires of milliohms round their currents to 1e-14 A. gmin is the conductance that ngspice adds across a
transistor's junctions; its default of 1 pS shows in the eighth digit."""


@dataclass(frozen=True)
class _Nodes:
    """The names of a crossbar's nodes; nodes that a zero resistance joins share a name."""

    rows: int
    wires: Wires

    def row(self, i: int, j: int) -> str:
        j = 0 if self.wires.r_row == 0 else j
        return f"drive{i}" if j == 0 and self.wires.r_source == 0 else f"r{i}_{j}"

    def col(self, i: int, j: int) -> str:
        last = self.rows - 1
        i = last if self.wires.r_col == 0 else i
        return f"sense{j}" if i == last and self.wires.r_sink == 0 else f"c{i}_{j}"


def write_frame(rows: int, cols: int, wires: Wires) -> str:
    """The netlist without its cells: drivers (at 0 V), wires, ammeters and options; it is the same for every tile."""
    try:
        from PySpice.Spice.Netlist import Circuit
    except ImportError as error:
        raise missing_pyspice() from error

    circuit, nodes = Circuit("crossbar"), _Nodes(rows, wires)

    def add_resistor(name: str, plus: str, minus: str, ohm: object) -> None:
        if ohm != 0:
            circuit.R(name, plus, minus, ohm)

    for i in range(rows):
        circuit.V(f"drive{i}", f"drive{i}", circuit.gnd, 0.0)
        add_resistor(f"source{i}", f"drive{i}", nodes.row(i, 0), wires.r_source)
        for j in range(1, cols):
            add_resistor(f"row{i}_{j}", nodes.row(i, j - 1), nodes.row(i, j), wires.r_row)
    for j in range(cols):
        for i in range(1, rows):
            add_resistor(f"col{i}_{j}", nodes.col(i - 1, j), nodes.col(i, j), wires.r_col)
        add_resistor(f"sink{j}", nodes.col(rows - 1, j), f"sense{j}", wires.r_sink)
        circuit.V(f"sense{j}", f"sense{j}", circuit.gnd, 0.0)
    # Only the ammeters are saved, so that ngspice does not store (and leak) every node of every solution.
    saved = " ".join(f"i(vsense{j})" for j in range(cols))
    return f"{circuit}{_OPTIONS}\n.save {saved}\n"


def write_cells(conductances: Tensor, cell: Cell, wires: Wires) -> str:
    """The rest of the netlist, with a card for each cell of ``conductances`` (rows, cols) [S] that is not open."""
    nodes = _Nodes(len(conductances), wires)
    cards = [
        cell.spice(f"cell{i}_{j}", nodes.row(i, j), nodes.col(i, j), g)
        for i, row in enumerate(conductances.tolist())
        for j, g in enumerate(row)
        if g != 0
    ]
    return "\n".join([*cards, ".end\n"])
