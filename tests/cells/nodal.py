"""A crossbar of any cells by Kirchhoff's current law at each node: dense Newton, one instance at a time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geniex.circuit import Crossbar


def nodal_currents(crossbar: Crossbar, voltages: Tensor, conductances: Tensor) -> Tensor:
    """Column currents (..., cols); every resistance of the crossbar must be positive."""
    lead = torch.broadcast_shapes(voltages.shape[:-1], conductances.shape[:-2])
    v = voltages.expand(*lead, crossbar.rows).reshape(-1, crossbar.rows)
    g = conductances.expand(*lead, crossbar.rows, crossbar.cols).reshape(-1, crossbar.rows, crossbar.cols)
    return torch.stack([_solve(crossbar, *one) for one in zip(v, g, strict=True)]).reshape(*lead, crossbar.cols)


def _solve(crossbar: Crossbar, voltages: Tensor, conductances: Tensor) -> Tensor:
    rows, cols, wires = crossbar.rows, crossbar.cols, crossbar.wires
    nodes = rows * cols
    laplace, injected = np.zeros((2 * nodes, 2 * nodes)), np.zeros(2 * nodes)
    r = np.arange(nodes).reshape(rows, cols)
    c = r + nodes

    def wire(a: NDArray[np.int64], b: NDArray[np.int64], ohm: float) -> None:
        for m, n in zip(a.flat, b.flat, strict=True):
            laplace[[m, n], [m, n]] += 1 / ohm
            laplace[[m, n], [n, m]] -= 1 / ohm

    wire(r[:, :-1], r[:, 1:], float(wires.r_row))
    wire(c[:-1], c[1:], float(wires.r_col))
    laplace[r[:, 0], r[:, 0]] += 1 / wires.r_source
    injected[r[:, 0]] = voltages / wires.r_source
    laplace[c[-1], c[-1]] += 1 / wires.r_sink
    potential = np.zeros(2 * nodes)
    for _ in range(200):
        u = torch.from_numpy(potential[:nodes] - potential[nodes:])
        current, slope = (x.numpy() for x in crossbar.cell.current_and_derivative(u, conductances.reshape(-1)))
        missing = laplace @ potential - injected + np.r_[current, -current]
        d = np.diag(slope)
        step = np.linalg.solve(laplace + np.block([[d, -d], [-d, d]]), missing)
        # A short stride keeps a sinh from running away.
        potential -= step * min(1.0, 0.2 / max(np.abs(step).max(), 1e-300))
        if np.abs(step).max() < 1e-14:
            break
    else:
        raise AssertionError("the oracle did not converge")
    return torch.from_numpy(potential[c[-1]] / wires.r_sink)
