"""Rival solvers of the crossbar: SuperLU Newton, badcrossbar and ngspice."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from geniex.bench.circuits import Problem
from geniex.bench.solver_models import Answer, Solve
from geniex.circuit.spice import ngspice_version, solve_tile
from geniex.distribution import install_hint
from rivals_and_bars.nodal import NodalArray


@dataclass(frozen=True)
class SuperLU:
    """Newton on the node equations with SciPy's sparse LU; linear cells need one factorisation for all vectors."""

    tol: float = 1e-9
    name: str = "SuperLU"
    threaded: bool = False
    measured_up_to: float = 128

    @property
    def missing(self) -> str | None:
        """A hint to install SciPy if it is missing."""
        return _missing_package("scipy", install_hint())

    def vectors(self, problem: Problem) -> int:
        """All vectors of linear cells, which share one factorisation; otherwise one, as each vector costs the same."""
        return problem.voltages.shape[0] if problem.crossbar.cell.is_linear else 1

    def prepare(self, problem: Problem) -> Solve:
        """Number the nodes and lay out the Jacobian."""
        array = NodalArray(problem.crossbar)
        v, g = problem.voltages.numpy(), problem.conductances.numpy()

        def solve() -> Answer:
            if problem.crossbar.cell.is_linear:
                return Answer(torch.from_numpy(array.solve_linear(v, g)), 1.0)
            solutions = [array.solve(one, g, self.tol) for one in v]
            currents = torch.from_numpy(np.stack([s.currents for s in solutions]))
            return Answer(currents, sum(s.iterations for s in solutions) / len(solutions))

        return solve


@dataclass(frozen=True)
class BadCrossbar:
    """badcrossbar, for linear cells and for driver and sense resistances equal to those of the wire segments."""

    name: str = "badcrossbar"
    threaded: bool = False
    measured_up_to: float = 128

    @property
    def missing(self) -> str | None:
        """A hint to install badcrossbar, which is no dependency of geniex, if it is missing."""
        return _missing_package("badcrossbar", "pip install badcrossbar")

    def vectors(self, problem: Problem) -> int:
        """All vectors, if badcrossbar can represent the circuit."""
        wires = problem.crossbar.wires
        same = wires.r_source == wires.r_row and wires.r_sink == wires.r_col
        return problem.voltages.shape[0] if problem.crossbar.cell.is_linear and same else 0

    def prepare(self, problem: Problem) -> Solve:
        """Convert the problem to badcrossbar's units and shapes."""
        compute, wires = _badcrossbar(), problem.crossbar.wires
        volt, ohm = problem.voltages.numpy().T, 1 / problem.conductances.numpy()
        options = {"node_voltages": False, "all_currents": False}

        def solve() -> Answer:
            found = compute(volt, ohm, r_i_word_line=wires.r_row, r_i_bit_line=wires.r_col, **options)
            return Answer(torch.from_numpy(np.asarray(found.currents.output)))

        return solve


@dataclass(frozen=True)
class Ngspice:
    """ngspice's operating point, netlist included; it is slow and gets one vector, of tiles up to 64x64."""

    largest: int = 64
    name: str = "ngspice"
    threaded: bool = False
    measured_up_to: float = 0

    @property
    def missing(self) -> str | None:
        """A hint if PySpice or libngspice, which are optional, is missing."""
        return _missing_ngspice()

    def vectors(self, problem: Problem) -> int:
        """One vector for tiles up to ``largest``, which take seconds; none for larger tiles."""
        return int(max(problem.crossbar.rows, problem.crossbar.cols) <= self.largest)

    def prepare(self, problem: Problem) -> Solve:
        """Return the function that solves; nothing can be done before."""
        crossbar, voltages, conductances = problem
        return lambda: Answer(solve_tile(voltages, conductances, crossbar.cell, crossbar.wires))


@functools.cache
def _missing_ngspice() -> str | None:
    return "PySpice or libngspice not found (geniex doctor)" if ngspice_version() is None else None


def _missing_package(name: str, way_out: str) -> str | None:
    return None if importlib.util.find_spec(name) is not None else f"not installed ({way_out})"


def _badcrossbar() -> Callable[..., Any]:
    # On import badcrossbar warns, past any filter, that its plots need pycairo, and makes the root logger print.
    with warnings.catch_warnings(record=True):
        handlers, level = list(logging.root.handlers), logging.root.level
        compute = importlib.import_module("badcrossbar").compute
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    logging.getLogger("badcrossbar").setLevel(logging.WARNING)
    return compute
