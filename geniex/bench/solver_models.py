"""The native solver as ``geniex bench solver`` times it, and the interface of solvers that are timed beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from geniex.bench.circuits import Problem


class Answer(NamedTuple):
    """The solution that a solver returns for a problem."""

    currents: Tensor
    """Column currents (vectors, cols) [A], float64."""
    iterations: float | None = None
    """Mean Newton or fixed-point iterations per vector; None if the solver does not report them."""


Solve = Callable[[], Answer]
"""A function that solves a prepared problem; only its call is timed."""


class Solver(Protocol):
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

    @property
    def measured_up_to(self) -> float:
        """The largest size of a tile on which the solver's memory is measured."""
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
    measured_up_to: float = math.inf

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
