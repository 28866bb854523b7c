"""The models that an evaluation compares; each maps voltages and conductances of some tiles to column currents."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from geniex.circuit import shared_matmul
from geniex.circuit.transfer_matrix import effective_conductance
from geniex.errors import CheckpointError
from geniex.study.analytic import calibrate_affine, compute_distance_conductance
from geniex.surrogate import Surrogate
from geniex.sweep import SweepFile, TileCircuits

_BLOCK_CELLS = 1 << 21
"""Cells in a block of tiles: 16 MB of conductances."""


@dataclass(frozen=True)
class Block:
    """Some tiles of one sweep file, float64."""

    sweep: SweepFile
    tiles: Tensor
    """Indices of the tiles in the file (tiles,)."""
    conductances: Tensor
    """Conductances (tiles, 1, rows, cols) [S], shared by a tile's vectors."""
    voltages: Tensor
    """Voltages (tiles, vectors, rows) [V]."""
    currents: Tensor
    """Exact column currents (tiles, vectors, cols) [A]."""
    circuits: TileCircuits
    """Circuit scalars of each tile."""


class Model(Protocol):
    """Anything that predicts column currents."""

    def __call__(self, block: Block) -> Tensor:
        """The predicted currents (tiles, vectors, cols) [A]."""


def read_blocks(sweep: SweepFile, tiles: Tensor) -> Iterator[Block]:
    """The given tiles (in ascending order) of a file in blocks; each block is one contiguous read."""
    step = max(1, _BLOCK_CELLS // (sweep.crossbar.rows * sweep.crossbar.cols))
    for start in range(0, sweep.tiles, step):
        stop = min(start + step, sweep.tiles)
        wanted = tiles[(tiles >= start) & (tiles < stop)]
        if wanted.numel():
            at = wanted - start
            g, v, currents = sweep.read(start, stop)
            yield Block(sweep, wanted, g[at, None], v[at], currents[at], _selected(sweep.circuits(start, stop), at))


def make_analytic_models(calibration: int) -> dict[str, Model]:
    """The models without training, by name; "alpha-beta" is left out if ``calibration`` (exact solutions) is 0."""
    models: dict[str, Model] = {"ideal": _ideal, "linear": _linear, "DMR": _distance}
    if calibration:
        models["alpha-beta"] = lambda block: _affine(block, calibration)
    return models


def make_surrogate_models(named: Mapping[str, Surrogate]) -> dict[str, Model]:
    """The surrogates as models whose errors name the surrogate."""
    return {name: _Named(name, surrogate) for name, surrogate in named.items()}


@dataclass(frozen=True)
class _Named:
    """A surrogate whose errors contain its name."""

    name: str
    surrogate: Surrogate

    def __call__(self, block: Block) -> Tensor:
        try:
            return read_surrogate_currents(self.surrogate, block)
        except CheckpointError as error:
            raise CheckpointError(f"surrogate {self.name}: {error}") from None


def read_surrogate_currents(surrogate: Surrogate, block: Block) -> Tensor:
    """Currents (tiles, vectors, cols) [A] of a surrogate bound to each tile's own circuit."""
    sweep = block.sweep
    if not sweep.spans_circuits:
        bound = surrogate.bound(sweep.crossbar, sweep.window, sweep.v_max)
        return bound.read(bound.program(block.conductances), block.voltages)
    return surrogate.read_circuits(block.circuits, block.conductances, block.voltages)


def _ideal(block: Block) -> Tensor:
    return shared_matmul(block.voltages, block.conductances)


def _linear(block: Block) -> Tensor:
    small_signal = block.circuits.cell.small_signal(block.conductances)
    return shared_matmul(block.voltages, effective_conductance(small_signal, block.circuits.wires))


def _distance(block: Block) -> Tensor:
    small_signal = block.circuits.cell.small_signal(block.conductances)
    return shared_matmul(block.voltages, compute_distance_conductance(small_signal, block.circuits.wires))


def _affine(block: Block, solutions: int) -> Tensor:
    circuits = block.circuits
    fit = calibrate_affine(block.conductances, circuits.cell, circuits.wires, circuits.v_max[:, None], solutions)
    return fit.read(block.voltages)


def _selected(circuits: TileCircuits, tiles: Tensor) -> TileCircuits:
    fields = ((f.name, getattr(circuits, f.name)) for f in dataclasses.fields(circuits))
    return dataclasses.replace(circuits, **{k: v[tiles] for k, v in fields if isinstance(v, Tensor)})  # type: ignore[arg-type]
