"""The models that ``geniex bench surrogate`` times; all have ``program`` and ``read``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from geniex.bench.circuits import CIRCUITS, Case
from geniex.bench.surrogate_report import (
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
from geniex.circuit import Crossbar, shared_matmul
from geniex.emulator import CircuitEmulator, IdealEmulator, LinearEmulator
from geniex.errors import CheckpointError
from geniex.mapping import ConductanceWindow
from geniex.study.analytic import AffineFit, calibrate_affine, compute_distance_conductance
from geniex.surrogate import GeniexMLP, Surrogate, list_shipped_surrogates, load_surrogate

_CIRCUIT = "easy"
"""The GENIEx nominal circuit."""
_CELL_LEVELS = 16
_CALIBRATION = 8
"""Exact solutions per tile on which the alpha-beta model is fitted."""
_FEW = 1024
"""Most tile-vectors per round for the concatenated network."""
_FEWER, _TILES = 256, 4
"""Most tile-vectors per round, and most tiles, for the exact circuit, whose vectors cost less if a tile has many."""
_RATIOS = (0.85, 1.2)
"""Range of f_R for a network that is only timed: the published range of the 64x64 nominal circuit."""


class Programmable(Protocol):
    """A model that is timed."""

    def program(self, conductances: Tensor) -> Any:
        """The result of all work that depends only on ``conductances`` (tiles, rows, cols) [S]."""

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (vectors, tiles, cols) [A] for ``voltages`` (vectors, 1, rows) [V]."""


@dataclass(frozen=True)
class Contender:
    """A model and the settings of its measurement."""

    name: str
    model: Programmable
    dtype: torch.dtype = torch.float32
    most_tiles: int | None = None
    """Most tiles per round; None for all."""
    most_reads: int | None = None
    """Most tile-vectors per round; None for all."""
    calibrates: bool = False
    """Whether programming solves circuits, in ``dtype``; the model then reads in float32."""
    note: str = ""
    trained: bool = True
    """Whether the model is trained; the error of random weights has no meaning."""


@dataclass(frozen=True)
class Task:
    """Tiles of the nominal circuit and their inputs."""

    size: int
    stream_bits: int
    conductances: Tensor
    """Conductances (tiles, rows, cols) [S], float64."""
    voltages: Tensor
    """Voltages (vectors, 1, rows) [V], float64, the same for all tiles."""

    @property
    def crossbar(self) -> Crossbar:
        """The GENIEx nominal circuit of this size."""
        return Case(self.size, "sinh", _CIRCUIT).crossbar

    @property
    def window(self) -> ConductanceWindow:
        """The conductance window."""
        return CIRCUITS[_CIRCUIT].window

    @property
    def v_max(self) -> float:
        """The highest drive, volt."""
        return CIRCUITS[_CIRCUIT].v_max


def draw_task(size: int, stream_bits: int, settings: SurrogateSettings) -> Task:
    """Random tiles and vectors of all sparsities, with 4-bit cells and uniform non-zero levels.

    The share of cells at level 0 grows evenly from 0 over the tiles. The share of zero inputs is uniform over the
    vectors, and no vector is all zero.
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


def make_contenders(task: Task, settings: SurrogateSettings) -> tuple[list[Contender], list[str]]:
    """All models for a task, and notes about surrogates that do not fit it."""
    crossbar = task.crossbar
    network, universal, notes = _surrogates(task, settings)
    note, trained = "", network is not None
    if network is None:
        network, note = make_random_network(task.crossbar, task.window, task.v_max), "random weights, timed only"
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
    """The model of distance-based effective resistance (DMR)."""

    def __init__(self, crossbar: Crossbar) -> None:
        self._crossbar = crossbar

    def program(self, conductances: Tensor) -> Tensor:
        """The transfer matrix (tiles, rows, cols) [S] of the model."""
        return compute_distance_conductance(self._crossbar.cell.small_signal(conductances), self._crossbar.wires)

    def read(self, array: Tensor, voltages: Tensor) -> Tensor:
        """Column currents by one matrix product."""
        return shared_matmul(voltages, array)


class Affine:
    """The model of the per-column affine fit (alpha-beta)."""

    def __init__(self, crossbar: Crossbar, v_max: float) -> None:
        self._crossbar, self._v_max = crossbar, v_max

    def program(self, conductances: Tensor) -> AffineFit:
        """The fit for reads in float32, on exact solutions of each tile in the precision of ``conductances``."""
        cell, wires = self._crossbar.cell, self._crossbar.wires
        fit = calibrate_affine(conductances[:, None], cell, wires, self._v_max, _CALIBRATION)
        return AffineFit(conductances.float(), fit.alpha[:, 0].float(), fit.beta[:, 0].float())

    def read(self, array: AffineFit, voltages: Tensor) -> Tensor:
        """Column currents by one matrix product and the affine map of each column."""
        return array.read(voltages)


class Concatenated:
    """The GENIEx network evaluated as published, with the hidden layer on concat(G', V') of each tile and vector."""

    def __init__(self, network: GeniexMLP) -> None:
        self._network = network

    def program(self, conductances: Tensor) -> tuple[Tensor, Tensor]:
        """The conductances (tiles, rows, cols) [S], and G' (tiles, rows * cols)."""
        return conductances, self._network.scalers.scale_conductance(conductances).flatten(-2)

    def read(self, array: tuple[Tensor, Tensor], voltages: Tensor) -> Tensor:
        """Column currents (vectors, tiles, cols) [A]."""
        conductances, scaled = array
        drives = self._network.scalers.scale_voltage(voltages)
        lead = (len(voltages), len(scaled))
        both = torch.cat([scaled.expand(*lead, -1), drives.expand(*lead, -1)], -1)
        hidden, output = self._network.hidden, self._network.output
        active = torch.relu(functional.linear(both, hidden.weight.to(both), hidden.bias.to(both)))
        ratio = functional.linear(active, output.weight.to(both), output.bias.to(both))
        return shared_matmul(voltages, conductances) / self._network.scalers.unscale_ratio(ratio)


def _surrogates(
    task: Task, settings: SurrogateSettings
) -> tuple[GeniexMLP | None, list[tuple[str, Surrogate]], list[str]]:
    """The GENIEx network for the task, the named surrogates for any circuit, and notes about unfit surrogates."""
    network: GeniexMLP | None = None
    universal: dict[str, Surrogate] = {}
    notes: list[str] = []
    for name, given in _named(task.size, settings):
        try:
            bound = load_surrogate(given).bound(task.crossbar, task.window, task.v_max, binary=task.stream_bits == 1)
        except CheckpointError as error:
            notes.append(f"{task.size}x{task.size} without {name}: {error}")
            continue
        if type(bound) is GeniexMLP:
            network = network or bound
        else:
            universal.setdefault(name, bound)
    return network, list(universal.items()), notes


def _named(size: int, settings: SurrogateSettings) -> Iterator[tuple[str, str]]:
    """Surrogates as (name in tables, name or path to load): the given ones first, then those that ship for the size."""
    for given in settings.surrogates:
        yield Path(given).name.removesuffix(".json").removesuffix(".safetensors"), given
    shipped = list_shipped_surrogates()
    yield from ((name, name) for name in (FAST, PHYSICS, f"geniex-mlp-{size}") if name in shipped)


def make_random_network(crossbar: Crossbar, window: ConductanceWindow, v_max: float) -> GeniexMLP:
    """A GENIEx network with random weights, for timing only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GeniexMLP(crossbar, window, v_max, r_min=_RATIOS[0], r_max=_RATIOS[1])
    return network.eval().requires_grad_(False)
