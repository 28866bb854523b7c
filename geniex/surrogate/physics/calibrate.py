"""Error bounds of physics surrogates from the exact circuit: from sweeps, or in a second from a user's own crossbar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geniex.circuit import non_ideality_factor, shared_matmul
from geniex.circuit.metrics import relative_error
from geniex.config import check_positive_int, check_seed
from geniex.errors import InputError
from geniex.surrogate.physics.circuit import Circuit
from geniex.surrogate.physics.error_bound import COVERAGE, fit_bound
from geniex.surrogate.physics.surrogate import PhysicsSurrogate
from geniex.sweep import SweepFile, SweepIndex

_BLOCK_CELLS = 1 << 18
"""Cells of the tiles that are read from a file at once."""
_TILES = 8
"""Random tiles in the calibration on one crossbar."""
_LEVELS = 16
"""Levels of the cells and of the drivers in the calibration on one crossbar."""
_TOLERANCE = 1e-8


class _Compared(NamedTuple):
    """The surrogate compared with exact currents, for the columns of some tiles (tiles, vectors, cols)."""

    figures: Tensor
    """Indicators (tiles, vectors, cols, indicators)."""
    relative: Tensor
    """Relative errors of the currents."""
    nf: Tensor
    """Errors of the NF, a fraction."""


def calibrate_on_circuit(surrogate: PhysicsSurrogate, solutions: int = 256, seed: int = 0) -> PhysicsSurrogate:
    """``surrogate`` with its error bound set for its own crossbar, window and drive, from exact solutions.

    Tiles and inputs are random, of all sparsities, with 16 levels. Every other tile serves to fit the bound: only its
    constant if the surrogate has a bound already, otherwise its slopes too. The remaining tiles measure the bound and
    the surrogate's errors, which ``.info["crossbar"]`` then holds.

    Args:
        surrogate: the surrogate, bound to the crossbar.
        solutions: number of exact solutions, at least 16; 256 take less than a second at 64 x 64.
        seed: seed of the tiles and vectors.
    """
    check_positive_int("solutions", solutions)
    if solutions < 2 * _TILES:
        raise InputError("solutions", solutions, f"it must be at least {2 * _TILES}, two for each of {_TILES} tiles")
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    conductances, voltages = _drawn(surrogate, solutions // _TILES, generator)
    exact = surrogate.crossbar.solve(voltages, conductances[:, None], tol=_TOLERANCE)
    found = _compared(surrogate, conductances, voltages, exact, None)
    slopes = None if surrogate.validity is None else surrogate.validity.slopes
    told = {"solutions": len(voltages) * voltages.shape[1], "seed": seed}
    return _calibrated(surrogate, [found], "crossbar", told, slopes)


def calibrate_on_sweep(
    surrogate: PhysicsSurrogate, data: SweepFile | SweepIndex, note: Callable[[str], None] = lambda _: None
) -> PhysicsSurrogate:
    """``surrogate`` with an error bound fitted to every other tile of a sweep, or of a set of sweeps across circuits.

    The remaining tiles measure the bound and the surrogate's errors, which ``.info["calibration"]`` then holds beside
    the data's digest. ``note`` is called with the name of each file before it is read.
    """
    files = [data] if isinstance(data, SweepFile) else data.files
    if sum(file.tiles for file in files) < 2:
        raise InputError("data", data.path, "it must have at least two tiles: one to fit the bound, one to measure it")
    found = []
    for file in files:
        note(file.path.name)
        found += [_compared(surrogate, *block) for block in _blocks(file)]
    told = {"digest": data.digest, "tiles": sum(file.tiles for file in files)}
    return _calibrated(surrogate, found, "calibration", told, None)


def _calibrated(
    surrogate: PhysicsSurrogate,
    found: list[_Compared],
    name: str,
    told: dict[str, Any],
    slopes: tuple[float, ...] | None,
) -> PhysicsSurrogate:
    def half(start: int, field: int) -> Tensor:
        return torch.cat([part[field][start::2].flatten(0, 2) for part in found])

    validity = fit_bound(half(0, 0), half(0, 1), slopes)
    bound, relative, nf = validity.bound(half(1, 0)), half(1, 1), half(1, 2)
    measured = {
        "coverage": float((relative <= bound)[relative > 0].double().mean()),
        "nf_rmse_pp": float(100 * nf.square().nanmean().sqrt()),
        "relative_rms": float(relative.square().mean().sqrt()),
        "relative_p999": float(relative.sort().values[round(0.999 * (len(relative) - 1))]),
    }
    info = surrogate.info | {name: told | {"bound_covers": COVERAGE, "held_out": measured}}
    return surrogate.with_validity(validity, info)


@torch.no_grad()
def _compared(
    surrogate: PhysicsSurrogate, conductances: Tensor, voltages: Tensor, exact: Tensor, circuit: Circuit | None
) -> _Compared:
    """The comparison for tiles (tiles, rows, cols), each with voltage vectors (tiles, vectors, rows) of its own."""
    tiles = conductances[:, None]
    array = surrogate.program(tiles, circuit)
    v_max = None if circuit is None else torch.as_tensor(circuit.v_max).reshape(-1, 1, 1)
    currents = surrogate.read(array, voltages, v_max)
    ideal = shared_matmul(voltages, tiles)
    nf = non_ideality_factor(ideal, currents) - non_ideality_factor(ideal, exact)
    return _Compared(surrogate.indicators(array, voltages, currents), relative_error(exact, currents), nf)


def _blocks(file: SweepFile) -> Iterator[tuple[Tensor, Tensor, Tensor, Circuit]]:
    step = max(2, _BLOCK_CELLS // (file.crossbar.rows * file.crossbar.cols))
    for start in range(0, file.tiles, step):
        stop = min(start + step, file.tiles)
        yield *file.read(start, stop), Circuit.of_tiles(file.circuits(start, stop))


def _drawn(surrogate: PhysicsSurrogate, vectors: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Conductances (tiles, rows, cols) and voltages (tiles, vectors, rows) of all sparsities, float64."""
    rows, cols = surrogate.crossbar.rows, surrogate.crossbar.cols

    def levels(*shape: int) -> Tensor:
        zeros = torch.rand(*shape[:-1], 1, generator=generator)
        drawn = torch.randint(1, _LEVELS, shape, generator=generator)
        return drawn * (torch.rand(shape, generator=generator) >= zeros)

    codes = levels(_TILES, rows * cols).unflatten(-1, (rows, cols))
    inputs = levels(_TILES, vectors, rows)
    if surrogate.binary:
        inputs = (inputs > 0) * (_LEVELS - 1)
    conductances = surrogate.window.to_conductance(codes, _LEVELS, dtype=torch.float64)
    return conductances, inputs.double() * (surrogate.v_max / (_LEVELS - 1))
