"""Surrogates without training: a crossbar's polynomial expansion, for any circuit in the validated range."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from geniex.cells import Cell, LinearCell, OneTransistorOneResistor, SinhCell
from geniex.circuit import Crossbar
from geniex.circuit.checks import check_conductances, has_values
from geniex.errors import CheckpointError, InputError
from geniex.mapping import ConductanceWindow
from geniex.surrogate.base import Outside, Surrogate, SurrogateArray, read_circuit_values
from geniex.surrogate.physics.circuit import Circuit
from geniex.surrogate.physics.error_bound import Validity, indicators
from geniex.surrogate.physics.expansion import Expansion, expand
from geniex.surrogate.physics.read import collapse, merge, read_currents
from geniex.sweep.circuits import TileCircuits

_PROGRAM_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
_FIELDS, _FIELDS_ALIKE = 540, 200
"""Float64 tensors of a tile's size that programming holds at once, with and without moments.

Programming without moments holds a few less, but chunks of more tiles would exceed what torch works on in one thread,
and more threads cost more.
"""
_LOWEST_TRANSMISSION = 0.2
"""Lowest validated sum of A over the sum of the conductances."""
RANGE: dict[str, tuple[float, float]] = {
    "r_source": (0.0, 1e3),
    "r_sink": (0.0, 1e3),
    "r_wire_row": (0.0, 10.0),
    "r_wire_col": (0.0, 10.0),
    "r_on": (10e3, 1e6),
    "on_off": (2.0, 100.0),
    "v0": (0.2, 0.5),
    "v_max / v0": (0.0, 2.0),
    "rows": (1, 256),
    "cols": (1, 256),
}
"""Range over which the surrogates were compared with the exact circuit.

The cells were sinh cells, with and without a series resistance.
"""
_UNITS = dict.fromkeys(("r_source", "r_sink", "r_wire_row", "r_wire_col", "r_on"), " ohm") | {"v0": " V"}
_WAY_OUT = "use CircuitEmulator, which is exact everywhere, or SurrogateEmulator(..., outside='warn')"
_ALSO_VALID = {
    "mean transmission": [_LOWEST_TRANSMISSION, 1.0],
    "cells": ["LinearCell", "SinhCell", "OneTransistorOneResistor of these with r_access"],
}


@dataclass(frozen=True)
class PhysicsArray(SurrogateArray):
    """Programmed tiles of a ``PhysicsSurrogate``."""

    expansion: Expansion
    """Polynomials of the column currents; matrices are (..., powers * rows, cols)."""
    response: Tensor
    """The linear array's A (..., rows, cols), siemens."""


class PhysicsSurrogate(Surrogate):
    """The expansion of ``geniex.surrogate.physics.expansion``: one model for all circuits, with no weights to train.

    ``bound`` returns it for another crossbar, window and drive. Linear cells give A^T V, and V = 0 gives 0.

    Args:
        crossbar: the circuit that the surrogate stands for.
        window: range of the conductances, siemens.
        v_max: highest voltage, volt, up to which the polynomials are fitted.
        powers: number of powers of w beside each power 0, 1, ... of the bit lines' rise.
        moments: number of moments of a bit line's rise that may differ from the tile's mean; with 0 all bit lines are
            assumed to rise like the one that is read.
        binary: whether inputs are 0 or ``v_max`` only, as in 1-bit streams; all powers of w then share one matrix.
        outside: "raise" a ``CheckpointError`` for circuits beyond ``RANGE``, or "warn".
        validity: slopes and constant of the error bound, the constant last; None where there is no bound yet.
    """

    cacheable = True
    universal = True

    def __init__(
        self,
        crossbar: Crossbar,
        window: ConductanceWindow,
        v_max: float,
        powers: Sequence[int] = (4, 3, 2, 1),
        moments: int = 3,
        binary: bool = False,
        outside: Outside = "raise",
        validity: Sequence[float] | None = None,
    ) -> None:
        super().__init__(crossbar, window, v_max)
        if moments and (len(powers) < 3 or powers[0] < 2):
            raise InputError(
                "powers", tuple(powers), "with moments there must be at least three, the first of them at least 2"
            )
        _check_outside(outside)
        self.powers, self.moments, self.binary, self.outside = tuple(powers), moments, binary, outside
        self._checked = False
        """Whether ``bound`` has found the circuit within the range."""
        self.validity = None if validity is None else Validity(tuple(validity[:-1]), validity[-1])

    @property
    def label(self) -> str:
        """The name of the shipped surrogate with these settings, otherwise the class' name."""
        mine = {"powers": self.powers, "moments": self.moments}
        return next((name for name, member in MEMBERS.items() if member == mine), super().label)

    def options(self) -> dict[str, Any]:
        """The powers, the moments, the error bound (None where there is none), and ``outside`` where it is "warn"."""
        line = None if self.validity is None else [*self.validity.slopes, self.validity.constant]
        told = {"powers": list(self.powers), "moments": self.moments, "validity": line}
        return told if self.outside == "raise" else told | {"outside": self.outside}

    @property
    def floats_per_read(self) -> int:
        """The sums over the rows and their combinations; with moments also the word lines' views of the columns."""
        sums, rows = len(self.powers) + 4, 0
        if self.moments:
            sums, rows = 3 * sums + 2 * self.moments, 2 * len(self.powers)
        return sums * self.crossbar.cols + rows * self.crossbar.rows

    def bound(
        self,
        crossbar: Crossbar,
        window: ConductanceWindow | None = None,
        v_max: float | None = None,
        binary: bool | None = None,
    ) -> PhysicsSurrogate:
        """A surrogate for another circuit; this very one where it was bound to an equal circuit.

        Raises:
            CheckpointError: the circuit lies outside the validated range.
        """
        window, v_max = window or self.window, self.v_max if v_max is None else v_max
        binary = self.binary if binary is None else binary
        mine = (self.crossbar, self.window, self.v_max, self.binary)
        if self._checked and mine == (crossbar, window, v_max, binary):
            return self
        self.check(crossbar, window, v_max)
        return self._with(crossbar=crossbar, window=window, v_max=v_max, binary=binary, _checked=True)

    def with_outside(self, outside: Outside) -> PhysicsSurrogate:
        """A copy of this surrogate that raises an error or warns where circuits are outside the validated range."""
        _check_outside(outside)
        return self._with(outside=outside, _checked=False)

    def with_validity(self, validity: Validity, info: dict[str, Any]) -> PhysicsSurrogate:
        """A copy of this surrogate with an error bound, and with ``info`` on the bound's origin."""
        return self._with(validity=validity, info=info)

    def _with(self, **changes: Any) -> PhysicsSurrogate:
        """A surrogate with other arguments or attributes."""
        arguments = {"crossbar": self.crossbar, "window": self.window, "v_max": self.v_max, "powers": self.powers}
        arguments |= {"moments": self.moments, "binary": self.binary, "outside": self.outside}
        given = {name: changes.get(name, value) for name, value in arguments.items()}
        changed = type(self)(**given)
        changed.validity, changed.info = changes.get("validity", self.validity), changes.get("info", self.info)
        changed._checked = changes.get("_checked", self._checked)
        return changed.train(self.training)

    def check(self, crossbar: Crossbar, window: ConductanceWindow | None = None, v_max: float | None = None) -> None:
        """Raise ``CheckpointError`` (or warn) where the circuit is outside the validated range."""
        values = read_circuit_values(crossbar)
        cell, found = _without_access(values.pop("cell")), list[str]()
        if window is not None:
            values |= {"r_on": window.r_on, "on_off": window.on_off}
        if isinstance(cell, SinhCell):
            v0 = float(cell.v0)
            values |= {"v0": v0} | ({} if v_max is None else {"v_max / v0": v_max / v0})
        elif not isinstance(cell, LinearCell):
            found.append(
                _outside(f"cell = {crossbar.cell.short}", "sinh and linear cells, alone or behind a resistance")
            )
        for name, value in values.items():
            (low, high), unit = RANGE[name], _UNITS.get(name, "")
            if not low <= value <= high * (1 + 1e-9):
                found.append(_outside(f"{name} = {value:.7g}{unit}", f"{low:.7g} to {high:.7g}{unit}"))
        if found:
            self._refuse(found)

    def program(self, conductances: Tensor, circuit: Circuit | None = None) -> PhysicsArray:
        """The expansion of tiles with ``conductances`` (..., rows, cols) [S].

        ``circuit`` gives each tile a circuit of its own, (tiles,) circuits for conductances (tiles, rows, cols); the
        tiles are then read with voltages up to their circuit's ``v_max``. Without it all tiles are part of
        ``crossbar``.
        """
        size = (self.crossbar.rows, self.crossbar.cols) if circuit is None else conductances.shape[-2:]
        check_conductances(conductances, *size)
        lead = conductances.shape[:-2]
        tiles = conductances.reshape(-1, *conductances.shape[-2:])
        circuit = circuit or Circuit.of(self.crossbar, self.v_max)
        chunks = list(_chunks(tiles, _FIELDS if self.moments else _FIELDS_ALIKE))
        parts = _on_threads(lambda at: expand(tiles[at], circuit.part(at), self.powers, self.moments), chunks, tiles)

        def joined(chunks: list[Tensor]) -> Tensor:
            return torch.cat(chunks).reshape(*lead, *chunks[0].shape[1:]).to(conductances.dtype)

        expansion = merge(parts, Tensor, joined)
        response = expansion.response
        if has_values(conductances) and conductances.numel():
            self._check_transmission(circuit.cell.small_signal(tiles), response)
        return PhysicsArray(conductances, collapse(expansion) if self.binary else expansion, response)

    def read(self, array: PhysicsArray, voltages: Tensor, v_max: Tensor | None = None) -> Tensor:
        """Column currents (..., cols) [A] of ``array`` for driver ``voltages`` (..., rows) [V].

        Where ``program`` was given circuits, ``v_max``, which broadcasts to (..., 1), takes the place of the
        surrogate's own.
        """
        top = self.v_max if v_max is None else v_max
        return read_currents(array.expansion, voltages / top) * top

    def read_circuits(self, circuits: TileCircuits, conductances: Tensor, voltages: Tensor) -> Tensor:
        """Currents (tiles, vectors, cols) [A] of tiles that each have a circuit of their own, all at once."""
        array = self.program(conductances, Circuit.of_tiles(circuits))
        return self.read(array, voltages, v_max=circuits.v_max[:, None, None])

    def error_bound(self, array: PhysicsArray, voltages: Tensor, currents: Tensor) -> Tensor:
        """Relative errors (..., cols) that 95 % of the column ``currents`` of the calibration data stay below.

        ``currents`` are the result of ``read`` for ``array`` and ``voltages``. The bound costs two more matrix
        products. ``geniex.circuit.metrics.relative_error`` defines the relative error.

        Raises:
            CheckpointError: the surrogate was never calibrated.
        """
        if self.validity is None:
            raise CheckpointError(
                "this surrogate has no error bound: calibrate it first (geniex.surrogate.calibrate_on_circuit)"
            )
        return self.validity.bound(self.indicators(array, voltages, currents))

    def indicators(self, array: PhysicsArray, voltages: Tensor, currents: Tensor) -> Tensor:
        """The figures (..., cols, 7) that the error bound is made from, as ``error_bound.indicators`` defines them."""
        return indicators(array.response, array.conductances, voltages, currents)

    def _check_transmission(self, g: Tensor, response: Tensor) -> None:
        share = (response.detach().sum() / g.detach().sum().clamp(min=torch.finfo(g.dtype).tiny)).item()
        if g.any() and share < _LOWEST_TRANSMISSION:
            self._refuse([_outside(f"the tiles' mean transmission = {share:.2g}", f"{_LOWEST_TRANSMISSION} to 1")])

    def _refuse(self, found: Sequence[str]) -> None:
        message = f"{', and '.join(found)}; {_WAY_OUT}"
        if self.outside == "raise":
            raise CheckpointError(message)
        warnings.warn(message, stacklevel=3)


MEMBERS: dict[str, dict[str, Any]] = {
    "physics": {"powers": (4, 3, 2, 1), "moments": 3},
    "physics-fast": {"powers": (3, 2, 1), "moments": 0},
}
"""Settings of the shipped surrogates: "physics" is the more accurate, "physics-fast" is meant for whole networks."""


def physics_member(name: str) -> PhysicsSurrogate:
    """A new surrogate with the settings ``name`` of ``MEMBERS``, for GENIEx' nominal circuit at 64 x 64.

    Its ``bound`` returns it for another circuit.
    """
    if name not in MEMBERS:
        raise InputError("name", name, f"the members of the family are {', '.join(MEMBERS)}")
    out = PhysicsSurrogate(Crossbar(64, 64), ConductanceWindow(100e3, 6.0), 0.5, **MEMBERS[name])
    out.info = {
        "training": "none: an expansion of the circuit's equations",
        "valid_for": {name: list(ends) for name, ends in RANGE.items()} | _ALSO_VALID,
    }
    return out


def _on_threads(build: Callable[[slice], Expansion], chunks: Sequence[slice], tiles: Tensor) -> list[Expansion]:
    """``build`` of each chunk, on as many Python threads as torch may use, each with one of torch's threads.

    Programming consists of many small batched products, which gain nothing from several threads each. Where gradients
    may be wanted, or tensors have no values, everything runs in this thread, because other threads have modes of their
    own.
    """
    threads = min(torch.get_num_threads(), len(chunks))
    if threads < 2 or torch.is_grad_enabled() or tiles.device.type != "cpu" or not has_values(tiles):
        return [build(at) for at in chunks]

    def built(at: slice) -> Expansion:
        with torch.no_grad():
            return build(at)

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(built, chunks))
    finally:
        torch.set_num_threads(before)  # torch keeps one number for all threads that start later


def _chunks(tiles: Tensor, fields: int) -> Iterator[slice]:
    size = 8 * fields * tiles.shape[-2] * tiles.shape[-1]
    step = max(1, _PROGRAM_BYTES.get(tiles.device.type, 256 << 20) // size)
    for start in range(0, max(1, len(tiles)), step):
        yield slice(start, start + step)


def _outside(what: str, allowed: str) -> str:
    return f"{what} lies outside the validated range of {allowed}"


def _check_outside(outside: object) -> None:
    if outside not in get_args(Outside):
        raise InputError("outside", repr(outside), f"it must be one of {', '.join(map(repr, get_args(Outside)))}")


def _without_access(cell: Cell) -> Cell:
    if isinstance(cell, OneTransistorOneResistor) and cell.mosfet is None:
        return cell.cell
    return cell
