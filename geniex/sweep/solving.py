"""The currents of a run of tiles, by the engine that the sweep names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geniex.errors import ConvergenceError, SpiceError, SweepError
from geniex.sweep.config import SweepConfig
from geniex.sweep.sampling import Codes, draw_tile

_BLOCK = 8
"""Tiles that the native solver takes at once. Its last digits depend on what shares a batch, so blocks start
at multiples of this number whatever the shards are: a tile's currents follow from (seed, tile) alone."""


class TileData(NamedTuple):
    """A run of solved tiles."""

    codes: Codes
    """Conductance levels (tiles, rows, cols)."""
    voltages: NDArray[np.float64]
    """Driver voltages (tiles, vectors, rows) [V]."""
    currents: NDArray[np.float64]
    """Column currents (tiles, vectors, cols) [A]."""


def level_table(config: SweepConfig) -> Tensor:
    """Conductance of each level (2**slice_bits,), float64 [S]."""
    levels = 2**config.slice_bits
    return config.window.to_conductance(torch.arange(levels), levels, dtype=torch.float64)


def solve_tiles(config: SweepConfig, start: int, stop: int) -> TileData:
    """The samples of tiles ``start`` to ``stop`` and their currents; on one thread, for the same bits.

    Raises:
        SweepError: tiles that have no solution; the message lists each with its reason.
    """
    with _one_thread():
        if config.engine == "native":
            parts = [_native(config, block, start, stop) for block in range(start // _BLOCK * _BLOCK, stop, _BLOCK)]
        else:
            parts = [_each(config, range(start, stop))]
    failed = [reason for _, reasons in parts for reason in reasons]
    if failed:
        raise SweepError("; ".join(failed))
    return TileData(*(np.concatenate(arrays) for arrays in zip(*(data for data, _ in parts), strict=True)))


def _native(config: SweepConfig, block: int, start: int, stop: int) -> tuple[TileData, list[str]]:
    """The tiles of the block that starts at ``block`` which lie in the run, and what failed."""
    data, conductances = _samples(config, range(block, block + _BLOCK))
    inside = range(max(block, start), min(block + _BLOCK, stop))
    try:
        currents = config.crossbar.solve(torch.from_numpy(data.voltages), conductances[:, None], method="native")
    except ConvergenceError:
        # One tile spoils its block: the others are solved one by one.
        return _each(config, inside)
    keep = slice(inside.start - block, inside.stop - block)
    return TileData(data.codes[keep], data.voltages[keep], currents.numpy()[keep]), []


def _each(config: SweepConfig, tiles: range) -> tuple[TileData, list[str]]:
    data, conductances = _samples(config, tiles)
    failed = []
    for k, tile in enumerate(tiles):
        try:
            voltages = torch.from_numpy(data.voltages[k])
            data.currents[k] = _solve_one(config, conductances[k], voltages).numpy()
        except (ConvergenceError, SpiceError) as error:
            failed.append(f"tile {tile}: {error}")
    return data, failed


def _solve_one(config: SweepConfig, conductances: Tensor, voltages: Tensor) -> Tensor:
    if config.engine == "native":
        return config.crossbar.solve(voltages, conductances, method="native")
    from geniex.circuit.spice import solve_tile

    return torch.as_tensor(solve_tile(config.crossbar, conductances, voltages))


def _samples(config: SweepConfig, tiles: range) -> tuple[TileData, Tensor]:
    """The drawn tiles with currents still zero, and their conductances (tiles, rows, cols) [S]."""
    drawn = [draw_tile(config, tile) for tile in tiles]
    codes, levels = np.stack([c for c, _ in drawn]), np.stack([v for _, v in drawn])
    voltages = levels * (config.v_max / (2**config.stream_bits - 1))
    currents = np.zeros((len(tiles), config.vectors, config.crossbar.cols))
    return TileData(codes, voltages, currents), level_table(config)[torch.from_numpy(codes)]


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
