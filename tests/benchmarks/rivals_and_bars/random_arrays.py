"""Random passive arrays of all kinds, on which solvers are checked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from geniex.bench.circuits import Problem
from geniex.cells import Cell, LinearCell, SinhCell
from geniex.circuit import Crossbar


def random_problems(count: int, low: int, high: int, seed: int) -> Iterator[Problem]:
    """Random passive arrays of all kinds with one input vector each and sizes from ``low`` to ``high``.

    Cells are linear or sinh, tiles are square or not, any wire, driver or sense resistance may be zero, conductances
    lie in a window or over six decades, cells may be open, and drives up to 2 V have one or either sign.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield _RandomArray(generator).problem(low, high)


class _RandomArray:
    """Random arrays, drawn one after another from a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def problem(self, low: int, high: int) -> Problem:
        rows, cols = self._sizes(low, high)
        crossbar = Crossbar(rows, cols, cell=self._cell(), **self._resistances())
        return Problem(crossbar, self._voltages(rows)[None], self._conductances(rows, cols))

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=self._generator)

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * self._uniform(1).item()

    def _log_between(self, low: float, high: float) -> float:
        return math.exp(self._between(math.log(low), math.log(high)))

    def _chance(self, share: float) -> bool:
        return self._uniform(1).item() < share

    def _sizes(self, low: int, high: int) -> tuple[int, int]:
        rows, cols = (round(self._log_between(low, high)) for _ in range(2))
        return (rows, rows) if self._chance(0.3) else (rows, cols)

    def _cell(self) -> Cell:
        return LinearCell() if self._chance(0.25) else SinhCell(v0=round(self._between(0.2, 0.5), 3))

    def _resistances(self) -> dict[str, Any]:
        def ohm(low: float, high: float) -> float:
            return 0.0 if self._chance(0.15) else round(self._log_between(low, high), 3)

        terminals = {"r_source": ohm(10, 2e3), "r_sink": ohm(10, 2e3)}
        if self._chance(0.4):
            return terminals | {"r_wire": ohm(0.1, 20)}
        return terminals | {"r_wire_row": ohm(0.1, 20), "r_wire_col": ohm(0.1, 20)}

    def _conductances(self, rows: int, cols: int) -> Tensor:
        share = self._uniform(rows, cols)
        if self._chance(0.5):
            g_on = 1 / self._log_between(20e3, 400e3)
            g = g_on * (share + (1 - share) / self._between(2, 20))
        else:
            g = 10 ** (-9 + 6 * share)
        return torch.where(self._uniform(rows, cols) < 0.1, 0, g) if self._chance(0.3) else g

    def _voltages(self, rows: int) -> Tensor:
        v_max = self._between(0.1, 2)
        low = -v_max if self._chance(0.4) else 0.0
        return low + (v_max - low) * self._uniform(rows)


def describe(problem: Problem) -> str:
    """A description of the array in one line."""
    x, g, v = problem.crossbar, problem.conductances, problem.voltages
    wires = x.wires
    closed = g[g > 0]
    conductances = "all open"
    if closed.numel():
        conductances = f"{closed.min():.2g} to {closed.max():.2g} S, {(g == 0).double().mean():.0%} open"
    cell = f"sinh {x.cell.v0:g} V" if isinstance(x.cell, SinhCell) else "linear"
    return (
        f"{x.rows}x{x.cols} {cell}, source {wires.r_source:g}, sink {wires.r_sink:g}, row {wires.r_row:g},"
        f" column {wires.r_col:g} ohm, {conductances}, {v.min():.2f} to {v.max():.2f} V"
    )
