"""Solvers of the crossbar behind one interface: geniex's native solver and its rivals."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from geniex.bench.cases import Problem
from geniex.bench.nodal import NodalArray
from geniex.circuit.spice import ngspice_version, solve_tile
from geniex.distribution import install_hint


class Answer(NamedTuple):
    """The solution that a rival returns for a problem."""

    currents: Tensor
    """Column currents (vectors, cols) [A], float64."""
    iterations: float | None = None
    """Mean Newton or fixed-point iterations per vector; None if the rival does not report them."""


Solve = Callable[[], Answer]
"""A function that solves a prepared problem; only its call is timed."""


class Rival(Protocol):
    """A solver that gives the column currents."""

    @property
    def name(self) -> str:
        """The solver's name in tables."""
        ...

    @property
    def missing(self) -> str | None:
        """The reason why the solver cannot run on this machine; None if it can."""
        ...

    @property
    def threaded(self) -> bool:
        """Whether the solver uses several cores if it is allowed to."""
        ...

    def vectors(self, problem: Problem) -> int:
        """The number of the problem's vectors that the solver is given; 0 if it cannot solve the circuit."""
        ...

    def prepare(self, problem: Problem) -> Solve:
        """Do the work that is not timed (conversions, tables of indices) and return the function that solves."""
        ...


@dataclass(frozen=True)
class Native:
    """geniex's native solver, by the method that ``Crossbar.solve`` chooses."""

    dtype: torch.dtype = torch.float64
    tol: float | None = None
    """Tolerance, as in ``Crossbar.solve``."""
    missing: str | None = None
    threaded: bool = True

    @property
    def name(self) -> str:
        """The name with the precision."""
        return f"native {str(self.dtype).removeprefix('torch.')}"

    def vectors(self, problem: Problem) -> int:
        """All vectors."""
        return problem.voltages.shape[0]

    def prepare(self, problem: Problem) -> Solve:
        """Convert the tensors."""
        v, g = problem.voltages.to(self.dtype), problem.conductances.to(self.dtype)

        def solve() -> Answer:
            with torch.no_grad():
                return Answer(problem.crossbar.solve(v, g, tol=self.tol).double())

        return solve


@dataclass(frozen=True)
class SuperLU:
    """Newton on the node equations with SciPy's sparse LU; linear cells need one factorisation for all vectors."""

    tol: float = 1e-9
    name: str = "SuperLU"
    threaded: bool = False

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

    @property
    def missing(self) -> str | None:
        """A hint if PySpice or libngspice, which are optional, is missing."""
        return _missing_ngspice()

    def vectors(self, problem: Problem) -> int:
        """One vector for tiles up to ``largest``, which take seconds; none for larger tiles."""
        return int(max(problem.crossbar.rows, problem.crossbar.cols) <= self.largest)

    def prepare(self, problem: Problem) -> Solve:
        """Return the function that solves; nothing can be done before."""
        return lambda: Answer(solve_tile(problem.crossbar, problem.conductances, problem.voltages))


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
