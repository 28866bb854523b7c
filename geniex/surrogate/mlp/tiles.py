"""A sweep's tiles as training samples: the split by tile, and scaled tensors read in contiguous blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from geniex.circuit import shared_matmul
from geniex.errors import InputError
from geniex.surrogate.mlp.scalers import Scalers, current_ratio
from geniex.sweep import SweepFile

HELD_OUT = 0.1
"""Fraction of the tiles for validation, and the same for the test."""
BLOCK_TILES = 512
"""Tiles read from the file at once."""


@dataclass(frozen=True)
class TileSplit:
    """Indices (int64, ascending) of the tiles of each part; a tile is in exactly one part, with all its vectors."""

    train: Tensor
    val: Tensor
    test: Tensor


def split_tiles(tiles: int, seed: int) -> TileSplit:
    """The 80/10/10 split of a sweep of ``tiles`` tiles, a function of the two numbers alone.

    The split is by tile and never by vector. The vectors of a tile share its conductances, so a split by vector would
    test on tiles that were trained on.
    """
    if tiles < 3:
        raise InputError("tiles", tiles, "it must be at least 3: one tile each for training, validation and test")
    order = torch.randperm(tiles, generator=torch.Generator().manual_seed(seed))
    held = max(1, round(HELD_OUT * tiles))
    test, val, train = order[:held], order[held : 2 * held], order[2 * held :]
    return TileSplit(*(part.sort().values for part in (train, val, test)))


class TileBatch(NamedTuple):
    """Scaled float32 samples of some tiles."""

    conductances: Tensor
    """G' (tiles, rows, cols)."""
    voltages: Tensor
    """V' (tiles, vectors, rows)."""
    ratios: Tensor
    """f_R' (tiles, vectors, cols); 0 where a column has no ratio."""
    known: Tensor
    """Whether a column has a ratio, bool (tiles, vectors, cols)."""

    def select(self, tiles: Tensor) -> TileBatch:
        """The samples of some of the batch's tiles, by position."""
        return TileBatch(*(part[tiles] for part in self))


def read_ratios(sweep: SweepFile, tiles: Tensor) -> Tensor:
    """f_R (tiles, vectors, cols) of the given tiles, float64; NaN where I_ideal = 0."""
    return torch.cat([current_ratio(shared_matmul(v, g[:, None]), i) for g, v, i in read_blocks(sweep, tiles)])


def read_batch(sweep: SweepFile, tiles: Tensor, scalers: Scalers, at_once: int = BLOCK_TILES) -> TileBatch:
    """Scaled samples of the given tiles (ascending), in memory: 4 bytes for each cell, voltage and ratio.

    The file is read ``at_once`` tiles at a time.
    """
    parts = [_scaled(*block, scalers) for block in read_blocks(sweep, tiles, at_once)]
    return TileBatch(*(torch.cat(column) for column in zip(*parts, strict=True)))


def read_blocks(sweep: SweepFile, tiles: Tensor, at_once: int = BLOCK_TILES) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(conductances, voltages, currents) of the given tiles (ascending), from reads of ``at_once`` adjacent tiles."""
    for start in range(0, sweep.tiles, at_once):
        stop = min(start + at_once, sweep.tiles)
        wanted = tiles[(tiles >= start) & (tiles < stop)] - start
        if wanted.numel():
            g, v, currents = sweep.read(start, stop)
            yield g[wanted], v[wanted], currents[wanted]


def _scaled(g: Tensor, v: Tensor, currents: Tensor, scalers: Scalers) -> TileBatch:
    target = scalers.scale_ratio(current_ratio(shared_matmul(v, g[:, None]), currents))
    known = ~torch.isnan(target)
    return TileBatch(
        scalers.scale_conductance(g).float(),
        scalers.scale_voltage(v).float(),
        torch.where(known, target, 0.0).float(),
        known,
    )
