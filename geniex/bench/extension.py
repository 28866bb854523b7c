"""How a checkout adds its rival solvers and the project's bars to ``geniex bench``.

An installed geniex times only itself. A checkout also has the package ``rivals_and_bars`` in tests/benchmarks, whose
function ``extension()`` returns a subclass of ``Extension``; ``load_extension`` finds and calls it. Each benchmark
takes an ``Extension`` as an argument and asks it for everything that is not geniex' own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import geniex
from geniex.bench.additions import Bar, Campaign, Elsewhere

if TYPE_CHECKING:
    from torch import Tensor

    from geniex.bench.circuits import Case, Problem
    from geniex.bench.inference_report import InferenceReport
    from geniex.bench.solver_models import Solver
    from geniex.bench.solver_report import SolverReport, SolverSettings
    from geniex.bench.surrogate_report import SurrogateReport
    from geniex.circuit import Crossbar

Note = Callable[[str], None]
"""A function called with a description of the current work."""
ABSENT = "rival solvers and the project's bars need a checkout of geniex; only geniex is timed here"
"""The note of a report that was made without an extension."""
_FOLDER, _PACKAGE = Path("tests", "benchmarks"), "rivals_and_bars"


class Extension:
    """Everything that is measured beside geniex, and the bars of the figures; this base class adds nothing."""

    def solvers(self, settings: SolverSettings) -> Sequence[Solver]:
        """The solvers that are timed in turns with the native one; those that this machine misses are left out."""
        return ()

    def cases(self, settings: SolverSettings) -> Sequence[Case]:
        """Further cases, in circuits that suit a rival."""
        return ()

    def reference(self, problem: Problem) -> tuple[str, Tensor] | None:
        """The name of an independent solver and its column currents (vectors, cols) [A], or None if it is missing.

        Raises:
            GeniexError: the solver fails.
        """
        return None

    def linear_solver(self, crossbar: Crossbar) -> Callable[[Tensor, Tensor], Tensor] | None:
        """A function that takes voltages (vectors, rows) [V] and conductances (rows, cols) [S] of linear cells to
        column currents (vectors, cols) [A]; None if there is no independent solver."""
        return None

    def campaigns(self, settings: SolverSettings, note: Note) -> Iterable[Campaign]:
        """The errors of the native solver on random arrays, one campaign for each oracle and size."""
        return ()

    def elsewhere(self) -> tuple[Elsewhere, ...]:
        """Times of other simulators, for the report of ``geniex bench inference``."""
        return ()

    def solver_bars(self, report: SolverReport) -> tuple[Bar, ...]:
        """The bars of the native solver."""
        return ()

    def surrogate_bars(self, report: SurrogateReport) -> tuple[Bar, ...]:
        """The bars of surrogates."""
        return ()

    def inference_bars(self, report: InferenceReport) -> tuple[Bar, ...]:
        """The bars of layers and networks."""
        return ()


def load_extension() -> Extension | None:
    """The extension of the checkout that geniex is imported from, or else of the one in the current directory.

    The extension is None outside a checkout. Its folder is added to ``sys.path``, which worker processes inherit.
    """
    for root in (Path(geniex.__file__).resolve().parents[1], Path.cwd()):
        if (root / _FOLDER / _PACKAGE / "__init__.py").is_file() and (root / "geniex" / "bench").is_dir():
            folder = str(root / _FOLDER)
            if folder not in sys.path:
                sys.path.append(folder)
            return importlib.import_module(_PACKAGE).extension()
    return None
