"""Who solves the crossbar: geniex's native solver, and others, behind one interface."""

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

from geniex.circuit.spice import ngspice_version, solve_tile
from geniex.distribution import install_hint
from geniex.study.bench.cases import Problem
from geniex.study.bench.nodal import NodalArray


class Answer(NamedTuple):
    """What a rival returns for a problem."""

    currents: Tensor
    """(vectors, cols) [A], float64."""
    iterations: float | None = None
    """Mean Newton or fixed-point iterations a vector, where the rival tells."""


Solve = Callable[[], Answer]
"""Solves a prepared problem; this is what is timed."""


class Rival(Protocol):
    """One way to the column currents."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def missing(self) -> str | None:
        """Why it cannot run on this machine; None where it can."""
        ...

    @property
    def threaded(self) -> bool:
        """Whether it uses more cores where it may."""
        ...

    def vectors(self, problem: Problem) -> int:
        """How many of the problem's vectors it is given: 0 where it does not solve such circuits."""
        ...

    def prepare(self, problem: Problem) -> Solve:
        """Do what is not timed (conversions, tables of indices) and return the solution's call."""
        ...


@dataclass(frozen=True)
class Native:
    """geniex itself, by the method that ``Crossbar.solve`` chooses."""

    dtype: torch.dtype = torch.float64
    tol: float | None = None
    """As in ``Crossbar.solve``."""
    missing: str | None = None
    threaded: bool = True

    @property
    def name(self) -> str:
        """With its precision."""
        return f"native {str(self.dtype).removeprefix('torch.')}"

    def vectors(self, problem: Problem) -> int:
        """All of them."""
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
    """Newton on the node equations with SciPy's sparse LU; one factorisation for all vectors where linear."""

    tol: float = 1e-9
    name: str = "SuperLU"
    threaded: bool = False

    @property
    def missing(self) -> str | None:
        """Why there is no SciPy, if so."""
        return _missing_package("scipy", install_hint())

    def vectors(self, problem: Problem) -> int:
        """All where one factorisation serves them; else one, which all the others cost as much as."""
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
    """badcrossbar: linear cells, drivers and sense terminals that are wire segments."""

    name: str = "badcrossbar"
    threaded: bool = False

    @property
    def missing(self) -> str | None:
        """It is no dependency."""
        return _missing_package("badcrossbar", "pip install badcrossbar")

    def vectors(self, problem: Problem) -> int:
        """All, of the circuits that it has."""
        wires = problem.crossbar.wires
        same = wires.r_source == wires.r_row and wires.r_sink == wires.r_col
        return problem.voltages.shape[0] if problem.crossbar.cell.is_linear and same else 0

    def prepare(self, problem: Problem) -> Solve:
        """Convert to its units and shapes."""
        compute, wires = _badcrossbar(), problem.crossbar.wires
        volt, ohm = problem.voltages.numpy().T, 1 / problem.conductances.numpy()
        options = {"node_voltages": False, "all_currents": False}

        def solve() -> Answer:
            found = compute(volt, ohm, r_i_word_line=wires.r_row, r_i_bit_line=wires.r_col, **options)
            return Answer(torch.from_numpy(np.asarray(found.currents.output)))

        return solve


@dataclass(frozen=True)
class Ngspice:
    """ngspice's operating point, netlist included; slow, so it gets one vector of tiles up to 64x64."""

    largest: int = 64
    name: str = "ngspice"
    threaded: bool = False

    @property
    def missing(self) -> str | None:
        """PySpice and libngspice are extras."""
        return _missing_ngspice()

    def vectors(self, problem: Problem) -> int:
        """One, up to the largest size that ends in seconds."""
        return int(max(problem.crossbar.rows, problem.crossbar.cols) <= self.largest)

    def prepare(self, problem: Problem) -> Solve:
        """Nothing can be done before."""
        return lambda: Answer(solve_tile(problem.crossbar, problem.conductances, problem.voltages))


@functools.cache
def _missing_ngspice() -> str | None:
    return "PySpice or libngspice not found (geniex doctor)" if ngspice_version() is None else None


def _missing_package(name: str, way_out: str) -> str | None:
    return None if importlib.util.find_spec(name) is not None else f"not installed ({way_out})"


def _badcrossbar() -> Callable[..., Any]:
    # On import it warns, past any filter, that its plots want pycairo, and makes the root logger print.
    with warnings.catch_warnings(record=True):
        handlers, level = list(logging.root.handlers), logging.root.level
        compute = importlib.import_module("badcrossbar").compute
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    logging.getLogger("badcrossbar").setLevel(logging.WARNING)
    return compute
