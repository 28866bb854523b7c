"""Reading a sweep file, lazily and from any process."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from geniex.circuit import Crossbar
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.sweep import layout
from geniex.sweep.config import SweepConfig
from geniex.sweep.solving import TileData

_DIGEST_TILES = 256
"""Tiles hashed at a time; bounds memory."""


class SweepFile:
    """A finished sweep on disk.

    The file is checked on construction and opened again on the first read in each process, so an instance can
    be pickled, sent to DataLoader workers, or forked.

    Raises:
        InputError: there is no such file.
        FileFormatError: it is truncated, foreign, of another version, or contradicts its configuration.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        with layout.open_sweep(self.path) as file:
            self.config: SweepConfig = layout.check(file, self.path)
            self.attributes: dict[str, Any] = layout.attributes_of(file)
            """Root attributes: solver, its version, geniex' version and so on."""
            self._levels = torch.from_numpy(file["level_table"][:])
        self._handle: h5py.File | None = None
        self._process = os.getpid()

    @property
    def crossbar(self) -> Crossbar:
        """The circuit that was solved."""
        return self.config.crossbar

    @property
    def window(self) -> ConductanceWindow:
        """Conductances of the levels."""
        return self.config.window

    @property
    def v_max(self) -> float:
        """Driver voltage of the highest stream level, volt."""
        return self.config.v_max

    @property
    def tiles(self) -> int:
        """Conductance matrices in the file."""
        return self.config.tiles

    @property
    def vectors(self) -> int:
        """Voltage vectors of each tile."""
        return self.config.vectors

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Conductances (t, rows, cols) [S], voltages (t, V, rows) [V], currents (t, V, cols) [A], in float64.

        These are the t = stop - start tiles from ``start`` on.
        """
        if not 0 <= start <= stop <= self.tiles:
            raise InputError("start, stop", f"{start}, {stop}", f"the file holds tiles 0 to {self.tiles}")
        data = self._read(start, stop)
        conductances = self._levels[torch.from_numpy(data.codes.astype("int64"))]
        return conductances, torch.from_numpy(data.voltages), torch.from_numpy(data.currents)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the configuration, the level table and all samples, in hexadecimal."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        digest.update(self._levels.numpy().tobytes())
        for start in range(0, self.tiles, _DIGEST_TILES):
            for values in self._read(start, min(start + _DIGEST_TILES, self.tiles)):
                digest.update(values.tobytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""
        if self._handle is not None:
            self._handle.close()
        self._handle = None

    def _read(self, start: int, stop: int) -> TileData:
        if self._process != os.getpid():
            # A handle from before a fork shares its file position with the parent; HDF5 would hand it out again.
            self.close()
        if self._handle is None:
            self._handle, self._process = layout.open_sweep(self.path), os.getpid()
        try:
            return layout.read(self._handle, start, stop)
        except OSError as error:
            raise layout.bad_file(self.path, f"tiles {start} to {stop} are damaged ({error})") from None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def __repr__(self) -> str:
        return f"SweepFile({str(self.path)!r}): {self.tiles} tiles x {self.vectors} vectors of {self.crossbar}"
