"""The rivals, campaigns and bars of a checkout, as ``geniex bench`` asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from geniex.bench.additions import Bar, Campaign, Elsewhere
from geniex.bench.circuits import Case, Problem
from geniex.bench.extension import Extension, Note
from geniex.bench.inference_report import InferenceReport
from geniex.bench.solver_models import Solver
from geniex.bench.solver_report import SolverReport, SolverSettings
from geniex.bench.surrogate_report import SurrogateReport
from geniex.bench.timing import count_cores
from geniex.circuit import Crossbar
from rivals_and_bars.campaigns import against_ngspice, against_superlu, superlu_currents
from rivals_and_bars.elsewhere import ELSEWHERE
from rivals_and_bars.inference_bars import inference_bars
from rivals_and_bars.nodal import NodalArray
from rivals_and_bars.random_arrays import random_problems
from rivals_and_bars.rivals import BadCrossbar, Ngspice, SuperLU
from rivals_and_bars.solver_bars import solver_bars
from rivals_and_bars.surrogate_bars import surrogate_bars


class Checkout(Extension):
    """SuperLU Newton, badcrossbar and ngspice beside the native solver, and the project's bars."""

    def solvers(self, settings: SolverSettings) -> Sequence[Solver]:
        """The rivals; ngspice takes part if it is asked."""
        rivals: list[Solver] = [SuperLU(), BadCrossbar()]
        return [*rivals, Ngspice(settings.ngspice_size)] if settings.ngspice else rivals

    def cases(self, settings: SolverSettings) -> Sequence[Case]:
        """Linear cells in the one circuit that badcrossbar can represent."""
        return [] if BadCrossbar().missing else [Case(size, "linear", "segments") for size in settings.sizes]

    def reference(self, problem: Problem) -> tuple[str, Tensor] | None:
        """The currents by SuperLU Newton, as exact as rounding allows."""
        return None if SuperLU().missing else ("SuperLU", superlu_currents(problem))

    def linear_solver(self, crossbar: Crossbar) -> Callable[[Tensor, Tensor], Tensor] | None:
        """SuperLU, with one factorisation for all vectors."""
        if SuperLU().missing:
            return None
        array = NodalArray(crossbar)
        return lambda v, g: torch.from_numpy(array.solve_linear(v.numpy(), g.numpy()))

    def campaigns(self, settings: SolverSettings, note: Note) -> Iterator[Campaign]:
        """Random arrays against SuperLU, then smaller ones against ngspice."""
        largest = settings.superlu_size
        if settings.superlu_arrays and not SuperLU().missing:
            note(f"{settings.superlu_arrays} random arrays up to {largest}x{largest} against SuperLU")
            yield against_superlu(list(random_problems(settings.superlu_arrays, 1, largest, settings.seed)), largest)
        if not settings.ngspice or Ngspice().missing:
            return
        for count, low, high in ((settings.ngspice_arrays, 1, 32), (settings.ngspice_large, 64, 64)):
            if count:
                note(f"{count} random arrays up to {high}x{high} against ngspice")
                problems = list(random_problems(count, low, high, settings.seed + high))
                yield against_ngspice(problems, high, count_cores())

    def elsewhere(self) -> tuple[Elsewhere, ...]:
        """The times of other simulators."""
        return ELSEWHERE

    def solver_bars(self, report: SolverReport) -> tuple[Bar, ...]:
        """The bars of the native solver."""
        return solver_bars(report)

    def surrogate_bars(self, report: SurrogateReport) -> tuple[Bar, ...]:
        """The bars of surrogates."""
        return surrogate_bars(report)

    def inference_bars(self, report: InferenceReport) -> tuple[Bar, ...]:
        """The bars of layers and networks."""
        return inference_bars(report)
