"""Circuits drawn at random, one for each tile, and the circuits of the tiles in a file.

A surrogate that serves any circuit learns from a sweep that spans circuits. The circuit of tile k follows from
(seed, k) alone: two wire and two terminal resistances, conductance window, non-linearity, drive, access
resistance, open cells and bit widths. Arrays that lose most of their current to the wires are of no use to anyone.
A circuit that would make such an array of the tile's levels is drawn again, until its mean transmission

    (sum of A) / (sum of small-signal G),   A the linear transfer matrix, I = A^T V,

is large enough. The numerator is the current of the linear array with all drivers at 1 V, which takes one solution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geniex.cells import Cell, LinearCell, OneTransistorOneResistor, SinhCell
from geniex.circuit import Crossbar, Wires, solve_cells
from geniex.config import Config, check_number, check_positive_int
from geniex.errors import InputError, SweepError

SCALARS = ("r_source", "r_sink", "r_wire_row", "r_wire_col", "r_on", "on_off", "v_max", "v0", "r_access", "slice_bits")
"""Names of the scalars that are drawn and stored for each tile, in this order."""
_FIELDS = ("r_source", "r_sink", "r_row", "r_col", *SCALARS[4:])
"""The fields of ``TileCircuits`` that hold ``SCALARS``, in the same order."""
OPEN = 255
"""The conductance code of an open cell, G = 0, in files that span circuits."""
_MAX_BITS = 7
"""Most slice bits in files that span circuits: the levels leave room for ``OPEN`` in 8 bits."""
_ATTEMPTS = 300
"""Circuits that are drawn for one tile before its ranges are taken to be impossible."""


@dataclass(frozen=True)
class CircuitRanges(Config):
    """The ranges from which the circuits of a sweep are drawn; pairs are the lowest and the highest value."""

    r_wire: float = 10.0
    """Largest wire resistance between neighbouring cells, ohm; rows and columns each draw r_wire u^2, u uniform."""
    r_wire_none: float = 0.12
    """Probability that the wires have no resistance, drawn separately for rows and columns."""
    r_terminal: float = 1000.0
    """Largest driver and sense resistance, ohm; each is drawn as r_terminal u^2, u uniform."""
    r_terminal_none: float = 0.08
    """Probability of no driver resistance, and, drawn separately, of no sense resistance."""
    r_on: tuple[float, float] = (10e3, 1e6)
    """Resistance of the most conductive state, ohm, log-uniform."""
    on_off: tuple[float, float] = (2.0, 100.0)
    """Ratio R_off / R_on, log-uniform."""
    v0: tuple[float, float] = (0.2, 0.5)
    """Voltage scale of the cells' sinh, volt, uniform."""
    drive: tuple[float, float] = (0.2, 2.0)
    """Highest driver voltage as a multiple of v0, uniform."""
    access: tuple[float, float] = (0.01, 1.0)
    """Resistance of the access device as a share of r_on, log-uniform; unused by cells without an access device."""
    open_tiles: float = 0.25
    """Probability that a tile has open cells."""
    open_share: float = 0.5
    """Largest probability that a cell of a tile with open cells is open; each tile draws its own, uniform from 0."""
    slice_bits: tuple[int, ...] = (1, 2, 4, 4, 6)
    """Bit widths of a weight slice, of which each tile draws one; a repeated width is drawn more often."""
    stream_bits: tuple[int, ...] = (1, 2, 4, 4, 6)
    """Bit widths of an input stream, of which each tile draws one."""
    min_transmission: float = 0.2
    """Smallest mean transmission of a tile; a circuit below it is drawn again."""

    def __post_init__(self) -> None:
        for name in ("r_on", "on_off", "v0", "drive", "access", "slice_bits", "stream_bits"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or not values:
                raise InputError(name, repr(values), "it must be a list of numbers")
            object.__setattr__(self, name, tuple(values))
        for name in ("r_wire", "r_terminal"):
            check_number(name, getattr(self, name), low=0.0, unit="ohm")
        for name in ("r_wire_none", "r_terminal_none", "open_tiles", "open_share", "min_transmission"):
            check_number(name, getattr(self, name), low=0.0, high=1.0)
        for name, low in (("r_on", 1.0), ("on_off", 1.0), ("v0", 0.0), ("drive", 0.0), ("access", 0.0)):
            self._check_pair(name, low)
        for name, largest in (("slice_bits", _MAX_BITS), ("stream_bits", 16)):
            for bits in getattr(self, name):
                check_positive_int(name, bits, maximum=largest)

    def _check_pair(self, name: str, low: float) -> None:
        values = getattr(self, name)
        for value in values:
            check_number(name, value, low=low, open_low=True)
        if len(values) != 2 or values[0] > values[1]:
            raise InputError(name, repr(values), "it must be two numbers, the lowest and the highest value")

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """The scalars of one circuit except its slice bits; it always takes the same number of draws."""
        wire = {name: _resistance(rng, self.r_wire, self.r_wire_none) for name in ("r_wire_row", "r_wire_col")}
        ends = {name: _resistance(rng, self.r_terminal, self.r_terminal_none) for name in ("r_source", "r_sink")}
        r_on, v0 = _log_uniform(rng, self.r_on), rng.uniform(*self.v0)
        return (
            wire
            | ends
            | {
                "r_on": r_on,
                "on_off": _log_uniform(rng, self.on_off),
                "v0": v0,
                "v_max": v0 * rng.uniform(*self.drive),
                "r_access": r_on * _log_uniform(rng, self.access),
            }
        )


@dataclass(frozen=True)
class TileCircuits:
    """The circuits of a run of tiles, each a float64 tensor (tiles,)."""

    r_source: Tensor
    """Driver resistances, ohm."""
    r_sink: Tensor
    """Sense resistances, ohm."""
    r_row: Tensor
    """Wire resistances along word lines, ohm."""
    r_col: Tensor
    """Wire resistances along bit lines, ohm."""
    r_on: Tensor
    """Resistances of the most conductive state, ohm."""
    on_off: Tensor
    """Ratios R_off / R_on."""
    v_max: Tensor
    """Driver voltages of the highest stream level, volt."""
    v0: Tensor
    """Voltage scales of the cells' sinh, volt; infinite for linear cells, NaN for other cells that have no v0."""
    r_access: Tensor
    """Resistances of the access devices, ohm; 0 for cells without one, NaN for transistors."""
    slice_bits: Tensor
    """Bits of a weight slice: cells have 2**slice_bits levels."""
    like: Crossbar = field(repr=False)
    """A crossbar with the shape and the cell type that all circuits share."""

    @classmethod
    def of(cls, like: Crossbar, scalars: NDArray[np.float64]) -> TileCircuits:
        """The circuits given by rows of ``SCALARS`` (tiles, 10), with the shape and cell type of ``like``."""
        columns = dict(zip(_FIELDS, torch.from_numpy(np.array(scalars.T)).unbind(), strict=True))
        return cls(like=like, **columns)

    @property
    def wires(self) -> Wires:
        """The wire and terminal resistances as tensors (tiles, 1), which broadcast over (tiles, vectors)."""
        return Wires(*(r[:, None] for r in (self.r_source, self.r_sink, self.r_row, self.r_col)))

    @property
    def cell(self) -> Cell:
        """The cell with its drawn fields as tensors (tiles, 1), which broadcast over (tiles, vectors)."""
        return set_scalars(self.like.cell, self.v0[:, None], self.r_access[:, None])

    def crossbar(self, tile: int) -> Crossbar:
        """The crossbar of one tile, with plain numbers in its fields."""
        return Crossbar(
            self.like.rows,
            self.like.cols,
            r_source=self.r_source[tile].item(),
            r_sink=self.r_sink[tile].item(),
            r_wire_row=self.r_row[tile].item(),
            r_wire_col=self.r_col[tile].item(),
            cell=set_scalars(self.like.cell, self.v0[tile].item(), self.r_access[tile].item()),
        )

    def conductances(self, codes: Tensor) -> Tensor:
        """Conductances (tiles, rows, cols) [S] of the ``codes`` in their tiles' windows; 0 where a code is ``OPEN``."""
        g_on = 1 / self.r_on
        g_off = g_on / self.on_off
        step = (g_on - g_off) / (2**self.slice_bits - 1)
        return torch.where(codes == OPEN, 0.0, g_off[:, None, None] + codes * step[:, None, None])


def set_scalars(cell: Cell, v0: float | Tensor, r_access: float | Tensor) -> Cell:
    """A copy of ``cell`` with ``v0`` and ``r_access`` in those of the two fields that it has."""
    if isinstance(cell, SinhCell):
        return cell.replace(v0=v0)
    if isinstance(cell, OneTransistorOneResistor):
        changed = {} if cell.r_access is None else {"r_access": r_access}
        return cell.replace(cell=set_scalars(cell.cell, v0, r_access), **changed)
    return cell


def read_scalars_of(cell: Cell) -> tuple[float, float]:
    """The v0 and r_access of a cell, with the conventions of ``TileCircuits`` for cells that lack one."""
    if isinstance(cell, OneTransistorOneResistor):
        return read_scalars_of(cell.cell)[0], float("nan") if cell.r_access is None else float(cell.r_access)
    if isinstance(cell, SinhCell):
        return float(cell.v0), 0.0
    return float("inf") if isinstance(cell, LinearCell) else float("nan"), 0.0


def check_spans(cell: Cell) -> None:
    """Raise ``InputError`` unless circuits can be drawn for this kind of cell."""
    inner = cell.cell if isinstance(cell, OneTransistorOneResistor) and cell.r_access is not None else cell
    if not isinstance(inner, SinhCell) or {getattr(c, "reference_voltage", None) for c in (cell, inner)} != {None}:
        raise InputError(
            "crossbar.cell",
            cell,
            "circuits are drawn for a SinhCell, alone or behind the r_access of a OneTransistorOneResistor,"
            " without reference_voltage",
        )


def draw_circuits(
    ranges: CircuitRanges, like: Crossbar, codes: NDArray[np.int64], bits: list[int], seeds: list[list[int]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The codes (tiles, rows, cols) with open cells put in, and the circuits drawn for them as rows of ``SCALARS``.

    Args:
        ranges: the ranges to draw from.
        like: a crossbar with the tiles' shape and cell type.
        codes: the tiles' conductance levels (tiles, rows, cols).
        bits: the slice bits of each tile.
        seeds: the seed of each tile; attempt k of a tile draws from (seed, k).

    Raises:
        SweepError: no circuit drawn for a tile in many attempts has a large enough transmission.
    """
    out, scalars = codes.copy(), np.zeros((len(codes), len(SCALARS)))
    pending = list(range(len(codes)))
    for attempt in range(_ATTEMPTS):
        for k in pending:
            rng = np.random.default_rng([*seeds[k], attempt])
            values = ranges.draw(rng) | {"slice_bits": bits[k]}
            if not isinstance(like.cell, OneTransistorOneResistor):
                values["r_access"] = 0.0
            scalars[k] = [values[name] for name in SCALARS]
            share = rng.uniform(0, ranges.open_share) if rng.random() < ranges.open_tiles else 0.0
            out[k] = np.where(rng.random(codes[k].shape) < share, OPEN, codes[k])
        circuits = TileCircuits.of(like, scalars[pending])
        passing = mean_transmission(circuits.conductances(torch.from_numpy(out[pending])), circuits)
        pending = [k for k, t in zip(pending, passing.tolist(), strict=True) if not t >= ranges.min_transmission]
        if not pending:
            return out, scalars
    raise SweepError(
        f"none of {_ATTEMPTS} circuits drawn has a mean transmission of at least {ranges.min_transmission:g}:"
        " lower min_transmission or the resistances in circuits, or take smaller arrays"
    )


def mean_transmission(conductances: Tensor, circuits: TileCircuits) -> Tensor:
    """(sum of A) / (sum of small-signal G), (tiles,), for conductances (tiles, rows, cols) [S]; NaN if all are open."""
    small = circuits.cell.small_signal(conductances[:, None])[:, 0]
    ones = torch.ones(len(small), 1, small.shape[1], dtype=small.dtype)
    currents = solve_cells(ones, small[:, None], LinearCell(), circuits.wires).currents
    return currents.sum((-2, -1)) / small.sum((-2, -1))


def _resistance(rng: np.random.Generator, largest: float, none: float) -> float:
    is_none, u = rng.random() < none, rng.random()
    return 0.0 if is_none else largest * u**2


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    low, high = np.log(bounds)
    return float(np.exp(rng.uniform(low, high)))
