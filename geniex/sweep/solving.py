"""The currents of a run of tiles, solved by the engine that the sweep names."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geniex.circuit import solve_cells
from geniex.errors import ConvergenceError, SpiceError, SweepError
from geniex.sweep.circuits import TileCircuits, draw_circuits
from geniex.sweep.config import SweepConfig
from geniex.sweep.sampling import Codes, circuit_seed, draw_bits, draw_tile
from geniex.threads import one_thread

_BLOCK = 8
"""Tiles that the native solver takes at once. The last digits of its results depend on which tiles share a batch, so
blocks start at multiples of this number whatever the shards are: a tile's currents follow from (seed, tile) alone."""


class TileData(NamedTuple):
    """A run of solved tiles."""

    codes: Codes
    """Conductance codes (tiles, rows, cols); ``geniex.sweep.circuits.OPEN`` for open cells."""
    voltages: NDArray[np.float64]
    """Driver voltages (tiles, vectors, rows) [V]."""
    currents: NDArray[np.float64]
    """Column currents (tiles, vectors, cols) [A]."""
    scalars: NDArray[np.float64]
    """The tiles' circuits as rows of ``geniex.sweep.circuits.SCALARS``; (tiles, 0) where all tiles share one."""


def level_table(config: SweepConfig) -> Tensor:
    """The conductance of each level, (2**slice_bits,), float64 [S]."""
    levels = 2**config.slice_bits
    return config.window.to_conductance(torch.arange(levels), levels, dtype=torch.float64)


def solve_tiles(config: SweepConfig, start: int, stop: int) -> TileData:
    """The samples of tiles ``start`` to ``stop`` and their currents, computed on one thread so that every bit repeats.

    Raises:
        SweepError: some tiles have no solution; the message lists each with its reason.
    """
    with one_thread():
        if config.engine == "native":
            blocks = range(start // _BLOCK * _BLOCK, stop, _BLOCK)
            parts = [part for block in blocks for part in _native(config, block, start, stop)]
        else:
            parts = [_alone(config, tile) for tile in range(start, stop)]
    failed = [part for part in parts if isinstance(part, str)]
    if failed:
        raise SweepError("; ".join(failed))
    solved = [part for part in parts if not isinstance(part, str)]
    return TileData(*(np.concatenate(arrays) for arrays in zip(*solved, strict=True)))


def _native(config: SweepConfig, block: int, start: int, stop: int) -> list[TileData | str]:
    """The tiles of the block from ``block`` on that lie in the run; a string says why a tile has no solution."""
    inside = range(max(block, start), min(block + _BLOCK, stop))
    try:
        samples = _draw(config, range(block, block + _BLOCK))
        currents = _solve_native(config, samples)
    except (ConvergenceError, SweepError):
        # One tile without a solution spoils its whole block, so its tiles are solved one by one.
        return [_alone(config, tile) for tile in inside]
    codes, voltages, amperes, scalars = samples.with_currents(currents)
    keep = slice(inside.start - block, inside.stop - block)
    return [TileData(codes[keep], voltages[keep], amperes[keep], scalars[keep])]


def _alone(config: SweepConfig, tile: int) -> TileData | str:
    """One solved tile, or the reason why it has no solution."""
    try:
        samples = _draw(config, range(tile, tile + 1))
        if config.engine == "native":
            currents = _solve_native(config, samples)
        else:
            currents = _solve_ngspice(config, samples)
    except (ConvergenceError, SpiceError, SweepError) as error:
        return f"tile {tile}: {error}"
    return samples.with_currents(currents)


class _Samples(NamedTuple):
    """Tiles that are drawn but not yet solved."""

    codes: Codes
    conductances: Tensor
    """Cell conductances (tiles, rows, cols) [S]."""
    voltages: Tensor
    """Driver voltages (tiles, vectors, rows) [V]."""
    circuits: TileCircuits | None
    """The tiles' circuits where each has its own; None where all share one."""
    scalars: NDArray[np.float64]
    """The same circuits as the file holds them."""

    def with_currents(self, currents: Tensor) -> TileData:
        return TileData(self.codes, self.voltages.numpy(), currents.numpy(), self.scalars)


def _draw(config: SweepConfig, tiles: range) -> _Samples:
    drawn = [draw_tile(config, tile) for tile in tiles]
    codes, levels = np.stack([c for c, _ in drawn]), np.stack([v for _, v in drawn])
    if config.circuits is None:
        voltages = levels * (config.v_max / (2**config.stream_bits - 1))
        conductances = level_table(config)[torch.from_numpy(codes)]
        return _Samples(codes, conductances, torch.from_numpy(voltages), None, np.zeros((len(tiles), 0)))
    bits = [draw_bits(config, tile) for tile in tiles]
    seeds = [circuit_seed(config, tile) for tile in tiles]
    codes, scalars = draw_circuits(config.circuits, config.crossbar, codes, [b for b, _ in bits], seeds)
    circuits = TileCircuits.of(config.crossbar, scalars)
    steps = circuits.v_max / torch.tensor([2**b - 1 for _, b in bits])
    voltages = torch.from_numpy(levels) * steps[:, None, None]
    return _Samples(codes, circuits.conductances(torch.from_numpy(codes)), voltages, circuits, scalars)


def _solve_native(config: SweepConfig, samples: _Samples) -> Tensor:
    """Column currents (tiles, vectors, cols) [A]."""
    voltages, conductances, circuits = samples.voltages, samples.conductances[:, None], samples.circuits
    if circuits is None:
        return config.crossbar.solve(voltages, conductances, method="native")
    return solve_cells(voltages, conductances, circuits.cell, circuits.wires).currents


def _solve_ngspice(config: SweepConfig, samples: _Samples) -> Tensor:
    """Column currents (1, vectors, cols) [A] of a single tile."""
    from geniex.circuit.spice import solve_tile

    crossbar = config.crossbar if samples.circuits is None else samples.circuits.crossbar(0)
    return solve_tile(samples.voltages[0], samples.conductances[0], crossbar.cell, crossbar.wires)[None]
