"""The error of the native solver against ngspice and SuperLU Newton on random arrays of all kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch import Tensor

from geniex.bench.additions import Campaign
from geniex.bench.circuits import Problem
from geniex.bench.solver_models import Native
from geniex.circuit.metrics import relative_error
from geniex.circuit.spice import solve_ngspice
from geniex.errors import GeniexError
from rivals_and_bars.random_arrays import describe
from rivals_and_bars.rivals import SuperLU

_TIGHT = 1e-13
"""Tolerance of SuperLU Newton as the reference; it is so tight that rounding stops Newton first."""


def superlu_currents(problem: Problem) -> Tensor:
    """Column currents (vectors, cols) [A] by SuperLU Newton, as exact as rounding allows."""
    return SuperLU(tol=_TIGHT).prepare(problem)().currents


def ngspice_currents(problem: Problem) -> Tensor:
    """Column currents (vectors, cols) [A] by ngspice in its own process."""
    crossbar, voltages, conductances = problem
    return solve_ngspice(voltages, conductances, crossbar.cell, crossbar.wires, workers=1)


def against_superlu(problems: Sequence[Problem], up_to: int) -> Campaign:
    """The errors of the native solver, at its default tolerance, against SuperLU Newton."""
    return _compare("SuperLU", up_to, problems, [_attempt(superlu_currents, p) for p in problems], None)


def against_ngspice(problems: Sequence[Problem], up_to: int, workers: int) -> Campaign:
    """The errors of the native solver, at its default tolerance, against ngspice in ``workers`` processes at a time."""
    with ThreadPoolExecutor(workers) as pool:
        expected = list(pool.map(lambda p: _attempt(ngspice_currents, p), problems))
    witness = [_attempt(superlu_currents, p) for p in problems] if SuperLU().missing is None else None
    return _compare("ngspice", up_to, problems, expected, witness)


def _attempt(solve: Callable[[Problem], Tensor], problem: Problem) -> Tensor | str:
    """The currents, or the reason why there are none."""
    try:
        return solve(problem)
    except GeniexError as error:
        return f"{describe(problem)}: {' '.join(str(error).split())}"


def _compare(
    oracle: str,
    up_to: int,
    problems: Sequence[Problem],
    expected: Sequence[Tensor | str],
    witness: Sequence[Tensor | str] | None,
) -> Campaign:
    found = [_attempt(lambda p: Native().prepare(p)().currents, p) for p in problems]
    errors, arrays = _errors(found, expected)
    worst = int(np.argmax(errors)) if errors else None
    apart = _errors(witness, expected)[0] if witness is not None else []
    sides = [side for p in problems for side in p.conductances.shape]
    return Campaign(
        oracle=oracle,
        up_to=up_to,
        sizes=(min(sides), max(sides)),
        arrays=len(errors),
        worst=None if worst is None else errors[worst],
        median=float(np.median(errors)) if errors else None,
        worst_array=None if worst is None else describe(problems[arrays[worst]]),
        oracles_apart=max(apart) if apart else None,
        failures=tuple(f for f in found if isinstance(f, str)),
        oracle_failures=tuple(e for e in expected if isinstance(e, str)),
    )


def _errors(found: Sequence[Tensor | str], expected: Sequence[Tensor | str]) -> tuple[list[float], list[int]]:
    """The error of each array that both sides solved, and the array's index."""
    errors, arrays = [], []
    for k, (actual, exact) in enumerate(zip(found, expected, strict=True)):
        if isinstance(actual, Tensor) and isinstance(exact, Tensor):
            errors.append(relative_error(exact, actual).max().item())
            arrays.append(k)
    return errors, arrays
