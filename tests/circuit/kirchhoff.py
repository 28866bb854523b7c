"""An independent solution of the crossbar: Kirchhoff's current law at every node, SuperLU and damped Newton."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from geniex.circuit import Crossbar

Array = NDArray[np.float64]


class _Union:
    """Names of nodes; those that a zero resistance joins are one."""

    def __init__(self) -> None:
        self.parent: dict[object, object] = {}

    def find(self, name: object) -> object:
        self.parent.setdefault(name, name)
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def join(self, a: object, b: object) -> None:
        self.parent[self.find(a)] = self.find(b)


@dataclass
class NodalCircuit:
    """Resistors (node, node, ohm) and cells (node, node) of a crossbar, built from its drawing alone.

    Nodes: ("in", i) driver, ("r", i, j), ("c", i, j), ("out", j) sense terminal at 0 V.
    """

    crossbar: Crossbar
    resistors: list[tuple[object, object, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        x = self.crossbar
        row = x.r_wire if x.r_wire_row is None else x.r_wire_row
        col = x.r_wire if x.r_wire_col is None else x.r_wire_col
        for i in range(x.rows):
            self.resistors.append((("in", i), ("r", i, 0), x.r_source))
            self.resistors += [(("r", i, j), ("r", i, j + 1), row) for j in range(x.cols - 1)]
        for j in range(x.cols):
            self.resistors += [(("c", i, j), ("c", i + 1, j), col) for i in range(x.rows - 1)]
            self.resistors.append((("c", x.rows - 1, j), ("out", j), x.r_sink))

    def solve(self, voltages: Array, conductances: Array, v0: float | None) -> Array:
        """Column currents (cols,) for one drive (rows,) and one tile (rows, cols); ``v0`` None is linear."""
        return self.nodes(voltages, conductances, v0)[0].sum(0)

    def nodes(self, voltages: Array, conductances: Array, v0: float | None) -> tuple[Array, Array, Array]:
        """Cell currents and the voltages of their word-line and bit-line nodes, each (rows, cols)."""
        x = self.crossbar
        union = _Union()
        for a, b, ohm in self.resistors:
            if ohm == 0:
                union.join(a, b)
        known = {union.find(("in", i)): float(voltages[i]) for i in range(x.rows)}
        known |= {union.find(("out", j)): 0.0 for j in range(x.cols)}
        nodes: dict[object, int] = {}
        for i in range(x.rows):
            for j in range(x.cols):
                for name in (("r", i, j), ("c", i, j)):
                    root = union.find(name)
                    if root not in known:
                        nodes.setdefault(root, len(nodes))
        fixed = list(known)
        place = nodes | {name: len(nodes) + k for k, name in enumerate(fixed)}

        def incidence(pairs: list[tuple[object, object]]) -> sp.csr_matrix:
            count = len(pairs)
            at = [place[union.find(a)] for a, _ in pairs] + [place[union.find(b)] for _, b in pairs]
            sign = np.r_[np.ones(count), -np.ones(count)]
            return sp.csr_matrix((sign, (list(range(count)) * 2, at)), shape=(count, len(place)))

        wires = [(a, b, ohm) for a, b, ohm in self.resistors if ohm != 0]
        wire_map = incidence([(a, b) for a, b, _ in wires])
        wire_g = np.array([1 / ohm for *_, ohm in wires])
        cells = [(i, j) for i in range(x.rows) for j in range(x.cols)]
        cell_map = incidence([(("r", i, j), ("c", i, j)) for i, j in cells])
        g = np.asarray(conductances, dtype=float).reshape(-1)

        def current(u: Array) -> tuple[Array, Array]:
            return (g * u, g) if v0 is None else (g * v0 * np.sinh(u / v0), g * np.cosh(u / v0))

        free = len(nodes)
        potential = np.r_[np.zeros(free), [known[name] for name in fixed]]
        laplace = wire_map.T @ sp.diags(wire_g) @ wire_map
        for _ in range(200 if free else 0):
            i_cell, slope = current(cell_map @ potential)
            missing = (laplace @ potential + cell_map.T @ i_cell)[:free]
            jacobian = (laplace + cell_map.T @ sp.diags(slope) @ cell_map)[:free, :free]
            step = splu(sp.csc_matrix(jacobian)).solve(missing)
            largest = np.abs(step).max()
            # A short stride keeps a sinh from running away.
            potential[:free] -= step * min(1.0, 0.5 / max(largest, 1e-300))
            if largest < 1e-12 * max(np.abs(voltages).max(), 1e-30):
                break
        i_cell, _ = current(cell_map @ potential)
        word, bit = (potential[[place[union.find((line, i, j))] for i, j in cells]] for line in "rc")
        return i_cell.reshape(x.rows, x.cols), word.reshape(x.rows, x.cols), bit.reshape(x.rows, x.cols)


def kirchhoff_currents(crossbar: Crossbar, voltages: Array, conductances: Array) -> Array:
    """Column currents (..., cols) by a loop over the broadcast leading dimensions."""
    circuit = NodalCircuit(crossbar)
    v0 = getattr(crossbar.cell, "v0", None)
    lead = np.broadcast_shapes(voltages.shape[:-1], conductances.shape[:-2])
    v = np.broadcast_to(voltages, (*lead, crossbar.rows))
    g = np.broadcast_to(conductances, (*lead, crossbar.rows, crossbar.cols))
    out = np.empty((*lead, crossbar.cols))
    for at in np.ndindex(*lead):
        out[at] = circuit.solve(v[at], g[at], v0)
    return out
