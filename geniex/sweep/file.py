"""The reader of a sweep file: it reads lazily, and works in any process."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import torch
from torch import Tensor

from geniex.circuit import Crossbar
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.sweep import layout
from geniex.sweep.circuits import SCALARS, TileCircuits
from geniex.sweep.config import SweepConfig
from geniex.sweep.solving import TileData

_T = TypeVar("_T")
_DIGEST_TILES = 256
"""Tiles that are hashed at a time, which bounds the memory."""


class SweepFile:
    """A finished sweep on disk.

    The file is checked on construction and opened again on the first read in each process, so an instance can
    be pickled, sent to DataLoader workers, or forked.

    Raises:
        InputError: no such file.
        FileFormatError: it is truncated, foreign, of another version, or contradicts its configuration.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        with layout.translate_errors(self.path), layout.open_file(self.path) as file:
            self.config: SweepConfig = layout.check(file, self.path)
            self.attributes: dict[str, Any] = layout.read_attributes(file)
            """Root attributes of the file: the solver, its version, the version of geniex and so on."""
            self._levels = None if self.config.circuits else torch.from_numpy(file["level_table"][:])
        self._handle: h5py.File | None = None
        self._process = os.getpid()

    @property
    def crossbar(self) -> Crossbar:
        """The circuit that was solved; if the file spans circuits, only shape and cell type hold, see ``circuits``."""
        return self.config.crossbar

    @property
    def window(self) -> ConductanceWindow:
        """Conductances of the levels; a placeholder in a file that spans circuits."""
        return self.config.window

    @property
    def v_max(self) -> float:
        """Driver voltage of the highest stream level, volt; a placeholder in a file that spans circuits."""
        return self.config.v_max

    @property
    def spans_circuits(self) -> bool:
        """Whether each tile has a circuit of its own."""
        return self.config.circuits is not None

    @property
    def tiles(self) -> int:
        """Number of conductance matrices in the file."""
        return self.config.tiles

    @property
    def vectors(self) -> int:
        """Number of voltage vectors of each tile."""
        return self.config.vectors

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Conductances (t, rows, cols) [S], voltages (t, V, rows) [V] and currents (t, V, cols) [A], in float64.

        They belong to the t = stop - start tiles from ``start`` on, each with V vectors.
        """
        self._check_run(start, stop)
        data = self._read(start, stop)
        codes = torch.from_numpy(data.codes.astype("int64"))
        if self._levels is None:
            conductances = TileCircuits.of(self.crossbar, data.scalars).conductances(codes)
        else:
            conductances = self._levels[codes]
        return conductances, torch.from_numpy(data.voltages), torch.from_numpy(data.currents)

    def circuits(self, start: int, stop: int) -> TileCircuits:
        """The circuits of the tiles ``start`` to ``stop``; they are all the same unless the file spans circuits."""
        self._check_run(start, stop)
        if self.spans_circuits:
            return TileCircuits.of(self.crossbar, self._take(start, stop, layout.read_scalars))
        values = layout.circuit_scalars(self.config)
        return TileCircuits.of(self.crossbar, np.tile([values[name] for name in SCALARS], (stop - start, 1)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the configuration, the level table and all samples, in hexadecimal."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        if self._levels is not None:
            digest.update(self._levels.numpy().tobytes())
        for start in range(0, self.tiles, _DIGEST_TILES):
            for values in self._read(start, min(start + _DIGEST_TILES, self.tiles)):
                digest.update(values.tobytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file in this process; the next read opens it again."""
        if self._handle is not None:
            self._handle.close()
        self._handle = None

    def _read(self, start: int, stop: int) -> TileData:
        return self._take(start, stop, layout.read)

    def _take(self, start: int, stop: int, reader: Callable[[h5py.File, int, int], _T]) -> _T:
        if self._process != os.getpid():
            # A handle opened before a fork shares its file position with the parent process. It must be closed, as
            # HDF5 would return the same open file if it were opened a second time.
            self.close()
        if self._handle is None:
            self._handle, self._process = layout.open_file(self.path), os.getpid()
        with layout.translate_errors(self.path, f"tiles {start} to {stop} are damaged"):
            return reader(self._handle, start, stop)

    def _check_run(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.tiles:
            raise InputError(
                "start, stop",
                f"{start}, {stop}",
                f"they must be a range within 0 to {self.tiles}, the number of tiles in the file",
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def __repr__(self) -> str:
        return (
            f"SweepFile({str(self.path)!r}): {self.tiles} tiles x {self.vectors} vectors of {self.crossbar.description}"
        )
