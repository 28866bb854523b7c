"""The models that ``geniex bench surrogate`` times, all behind ``program`` and ``read``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from geniex.circuit import Crossbar, shared_matmul
from geniex.emulator import CircuitEmulator, IdealEmulator, LinearEmulator
from geniex.errors import CheckpointError
from geniex.mapping import ConductanceWindow
from geniex.study.analytic import AffineFit, calibrate_affine, distance_conductance
from geniex.study.bench.cases import CIRCUITS, Case
from geniex.study.bench.surrogate_report import (
    AFFINE,
    CIRCUIT,
    CONCATENATED,
    DISTANCE,
    FACTORED,
    FAST,
    IDEAL,
    LINEAR,
    PHYSICS,
    SurrogateSettings,
)
from geniex.surrogate import GeniexMLP, Surrogate, load_surrogate, shipped_surrogates

_CIRCUIT = "easy"
"""The GENIEx nominal circuit."""
_CELL_LEVELS = 16
_CALIBRATION = 8
"""Exact solutions a tile that the alpha-beta model is fitted on."""
_FEW = 1024
"""Most tile-vectors a round of the concatenated network."""
_FEWER, _TILES = 256, 4
"""Tile-vectors, and tiles, of the exact circuit, which is cheaper a vector where a tile has many."""
_RATIOS = (0.85, 1.2)
"""Range of f_R of a network that is only timed: the published one of the 64x64 nominal circuit."""


class Programmable(Protocol):
    """What is timed."""

    def program(self, conductances: Tensor) -> Any:
        """All work that depends on ``conductances`` (tiles, rows, cols) [S] alone."""

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (vectors, tiles, cols) [A] for ``voltages`` (vectors, 1, rows) [V]."""


@dataclass(frozen=True)
class Contender:
    """A model with how it is to be measured."""

    name: str
    model: Programmable
    dtype: torch.dtype = torch.float32
    most_tiles: int | None = None
    most_reads: int | None = None
    """Tiles, and tile-vectors, a round; None: all."""
    calibrates: bool = False
    """Whether it solves circuits to program, in ``dtype``; it then reads in float32."""
    note: str = ""
    trained: bool = True
    """Whether its error means anything."""


@dataclass(frozen=True)
class Task:
    """Tiles of the nominal circuit, their inputs, and what is timed on them."""

    size: int
    stream_bits: int
    conductances: Tensor
    """(tiles, rows, cols) [S], float64."""
    voltages: Tensor
    """(vectors, 1, rows) [V], float64: the same for all tiles."""

    @property
    def crossbar(self) -> Crossbar:
        """The GENIEx nominal circuit of this size."""
        return Case(self.size, "sinh", _CIRCUIT).crossbar

    @property
    def window(self) -> ConductanceWindow:
        """Of the conductances."""
        return CIRCUITS[_CIRCUIT].window

    @property
    def v_max(self) -> float:
        """Highest drive, volt."""
        return CIRCUITS[_CIRCUIT].v_max


def draw_task(size: int, stream_bits: int, settings: SurrogateSettings) -> Task:
    """Random tiles and vectors of all sparsities: 4-bit cells, uniform non-zero levels.

    The share of cells at level 0 grows evenly from 0 over the tiles; that of zero inputs is uniform, and no
    vector is all zero.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    window, v_max = CIRCUITS[_CIRCUIT].window, CIRCUITS[_CIRCUIT].v_max

    def levels(count: int, zero_shares: Tensor, *shape: int) -> Tensor:
        drawn = torch.randint(1, count, (len(zero_shares), *shape), generator=generator)
        kept = torch.rand(drawn.shape, generator=generator) >= zero_shares.reshape(-1, *[1] * len(shape))
        return drawn * kept

    codes = levels(_CELL_LEVELS, torch.arange(settings.tiles) / settings.tiles, size, size)
    inputs = levels(2**stream_bits, torch.rand(settings.vectors, generator=generator), size)
    inputs[~inputs.any(-1), 0] = 1
    voltages = inputs.double() * (v_max / (2**stream_bits - 1))
    conductances = window.to_conductance(codes, _CELL_LEVELS, dtype=torch.float64)
    return Task(size, stream_bits, conductances, voltages[:, None])


def contenders(task: Task, settings: SurrogateSettings) -> tuple[list[Contender], list[str]]:
    """All models for a task, and notes about surrogates that are not for it."""
    crossbar = task.crossbar
    network, universal, notes = _surrogates(task, settings)
    note, trained = "", network is not None
    if network is None:
        network, note = random_network(task.crossbar, task.window, task.v_max), "random weights, only timed"
    every = [
        Contender(IDEAL, IdealEmulator()),
        Contender(LINEAR, LinearEmulator(crossbar)),
        Contender(DISTANCE, Distance(crossbar)),
        Contender(AFFINE, Affine(crossbar, task.v_max), torch.float64, calibrates=True),
        Contender(FACTORED, network, note=note, trained=trained),
        Contender(CONCATENATED, Concatenated(network), most_reads=_FEW, note=note, trained=trained),
        *(Contender(name, surrogate) for name, surrogate in universal),
        Contender(CIRCUIT, CircuitEmulator(crossbar), torch.float64, most_tiles=_TILES, most_reads=_FEWER),
    ]
    return every, notes


class Distance:
    """The distance-based effective resistance (DMR)."""

    def __init__(self, crossbar: Crossbar) -> None:
        self._crossbar = crossbar

    def program(self, conductances: Tensor) -> Tensor:
        """Its transfer matrix (tiles, rows, cols) [S]."""
        return distance_conductance(self._crossbar.cell.small_signal(conductances), self._crossbar.wires)

    def read(self, array: Tensor, voltages: Tensor) -> Tensor:
        """One product."""
        return shared_matmul(voltages, array)


class Affine:
    """The per-column affine fit (alpha-beta)."""

    def __init__(self, crossbar: Crossbar, v_max: float) -> None:
        self._crossbar, self._v_max = crossbar, v_max

    def program(self, conductances: Tensor) -> AffineFit:
        """Exact solutions of each tile, in the precision of ``conductances``, and the fit, for reads in float32."""
        cell, wires = self._crossbar.cell, self._crossbar.wires
        fit = calibrate_affine(conductances[:, None], cell, wires, self._v_max, _CALIBRATION)
        return AffineFit(conductances.float(), fit.alpha[:, 0].float(), fit.beta[:, 0].float())

    def read(self, array: AffineFit, voltages: Tensor) -> Tensor:
        """One product, and a line."""
        return array.read(voltages)


class Concatenated:
    """The GENIEx network evaluated as published: the hidden layer on concat(G', V') of each tile and vector."""

    def __init__(self, network: GeniexMLP) -> None:
        self._network = network

    def program(self, conductances: Tensor) -> tuple[Tensor, Tensor]:
        """The conductances (tiles, rows, cols) [S], and G' (tiles, rows * cols)."""
        return conductances, self._network.scalers.conductance(conductances).flatten(-2)

    def read(self, array: tuple[Tensor, Tensor], voltages: Tensor) -> Tensor:
        """Column currents (vectors, tiles, cols) [A]."""
        conductances, scaled = array
        drives = self._network.scalers.voltage(voltages)
        lead = (len(voltages), len(scaled))
        both = torch.cat([scaled.expand(*lead, -1), drives.expand(*lead, -1)], -1)
        hidden, output = self._network.hidden, self._network.output
        active = torch.relu(functional.linear(both, hidden.weight.to(both), hidden.bias.to(both)))
        ratio = functional.linear(active, output.weight.to(both), output.bias.to(both))
        return shared_matmul(voltages, conductances) / self._network.scalers.unscaled_ratio(ratio)


def _surrogates(
    task: Task, settings: SurrogateSettings
) -> tuple[GeniexMLP | None, list[tuple[str, Surrogate]], list[str]]:
    """The GENIEx network for the task, the surrogates for any circuit by name, and notes about unfit ones."""
    network: GeniexMLP | None = None
    universal: dict[str, Surrogate] = {}
    notes: list[str] = []
    for name, given in _named(task.size, settings):
        try:
            bound = load_surrogate(given).bound(task.crossbar, task.window, task.v_max, binary=task.stream_bits == 1)
        except CheckpointError as error:
            notes.append(f"{task.size}x{task.size} without {name}: {error}")
            continue
        if isinstance(bound, GeniexMLP):
            network = network or bound
        else:
            universal.setdefault(name, bound)
    return network, list(universal.items()), notes


def _named(size: int, settings: SurrogateSettings) -> Iterator[tuple[str, str]]:
    """Names for tables, and what to load: given ones first, then what ships for the size."""
    for given in settings.surrogates:
        yield Path(given).name.removesuffix(".json").removesuffix(".safetensors"), given
    shipped = shipped_surrogates()
    yield from ((name, name) for name in (FAST, PHYSICS, f"geniex-mlp-{size}") if name in shipped)


def random_network(crossbar: Crossbar, window: ConductanceWindow, v_max: float) -> GeniexMLP:
    """A GENIEx network that nobody trained, to be timed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GeniexMLP(crossbar, window, v_max, r_min=_RATIOS[0], r_max=_RATIOS[1])
    return network.eval().requires_grad_(False)
