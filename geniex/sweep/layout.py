"""The HDF5 layout that sweep files and their shards share: how they are written, and what a reader checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from geniex import __version__
from geniex.distribution import install_hint
from geniex.errors import FileFormatError, GeniexError, InputError, MissingDependencyError
from geniex.sweep import seal
from geniex.sweep.circuits import SCALARS, read_scalars_of
from geniex.sweep.config import SweepConfig
from geniex.sweep.solving import TileData, level_table

FORMAT = "geniex-sweep"
SCHEMA_VERSION = 2
BULK = ("codes", "voltages", "currents")
"""The datasets that grow with the array, in the order of ``TileData``."""
TILE_DIGESTS = "tile_digests"
"""The dataset (tiles, 16) with one digest per tile, over the tile's part of the datasets in ``BULK``."""
VERIFIED = ("verified_worst_deviation", "verified_vectors", "verified_seed", "verified_ngspice_version")
"""Root attributes that a file has once it was compared with ngspice."""
_CHUNK_BYTES = 16 << 10
"""Size up to which a chunk holds whole tiles: small enough to read a single tile, large enough to compress."""
_TILE_DIGEST_BYTES = 16
_FILTERS: dict[str, Any] = {"compression": "gzip", "shuffle": True, "fletcher32": True}


def attributes(config: SweepConfig) -> dict[str, Any]:
    """The root attributes of a sweep file, without time stamps, so that a resumed sweep equals an uninterrupted one.

    Raises:
        InputError: the configuration has a cell that no file can name, because its class is not registered.
    """
    told = config.to_dict()
    SweepConfig.from_dict(told)
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "config": json.dumps(told),
        "solver": config.engine,
        "solver_version": _solver_version(config),
        "seed": config.seed,
        "geniex_version": __version__,
    }


def create(target: Any, config: SweepConfig, tiles: int, root: dict[str, Any]) -> h5py.File:
    """A new, open HDF5 file with the attributes ``root`` and datasets for ``tiles`` tiles of ``config``."""
    file = h5py.File(target, "w")
    file.attrs.update(root)
    if config.circuits is None:
        file.create_dataset("level_table", data=level_table(config).numpy(), **_FILTERS)
        for name, value in _scalars(config).items():
            file.create_dataset(name, data=np.full(tiles, value), **_FILTERS)
    else:
        for name in SCALARS:
            file.create_dataset(name, shape=(tiles,), dtype=_dtype(name, config), **_FILTERS)
    for name in BULK:
        shape, dtype = _shape(name, config, tiles), _dtype(name, config)
        per_chunk = _CHUNK_BYTES // (dtype.itemsize * int(np.prod(shape[1:])))
        chunks = (min(max(per_chunk, 1), tiles), *shape[1:])
        file.create_dataset(name, shape=shape, dtype=dtype, chunks=chunks, **_FILTERS)
    file.create_dataset(TILE_DIGESTS, shape=(tiles, _TILE_DIGEST_BYTES), dtype=np.uint8, **_FILTERS)
    return file


def write(file: h5py.File, at: int, data: TileData) -> None:
    """Write ``data`` into the tiles from ``at`` on."""
    for name, values in zip((*BULK, *SCALARS), (*data[:3], *data.scalars.T), strict=False):
        file[name][at : at + len(values)] = values
    file[TILE_DIGESTS][at : at + len(data.codes)] = _tile_digests(*data[:3])


def read(file: h5py.File, start: int, stop: int) -> TileData:
    """The tiles ``start`` to ``stop``; raises ``OSError`` where a checksum or digest does not match."""
    codes, voltages, currents = (file[name][start:stop] for name in BULK)
    if not np.array_equal(_tile_digests(codes, voltages, currents), file[TILE_DIGESTS][start:stop]):
        raise OSError("the data do not match their digest")
    return TileData(codes, voltages, currents, read_scalars(file, start, stop))


def read_scalars(file: h5py.File, start: int, stop: int) -> NDArray[np.float64]:
    """The circuits of these tiles as rows of ``SCALARS``; the rows are empty where the file has one circuit."""
    names = SCALARS if "slice_bits" in file else ()
    return np.array([file[name][start:stop] for name in names]).reshape(len(names), stop - start).T


def check(file: h5py.File, path: Path, tiles: int | None = None) -> SweepConfig:
    """The configuration of an open sweep file, after checking that its attributes and datasets are there and fit it.

    ``tiles`` is the number of tiles that the file must hold; None means that of its configuration. A shard has fewer.

    Raises:
        FileFormatError: something does not fit; the message says what, with the path.
    """
    kind = file.attrs.get("format")
    if kind != FORMAT:
        raise bad_file(path, f"its format attribute is {kind!r} instead of {FORMAT!r}, so it is not a sweep")
    version = file.attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise bad_file(path, f"its schema has version {version}, but this version of geniex reads {SCHEMA_VERSION}")
    try:
        config = SweepConfig.from_dict(json.loads(file.attrs["config"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise bad_file(path, f"its configuration is damaged ({error})") from None
    known = {*_ATTRIBUTES, "shard"} if tiles is not None else set(_ATTRIBUTES)
    missing = sorted((set(read_attributes(file)) - set(VERIFIED)) ^ known)
    if missing:
        raise bad_file(path, f"its attribute {missing[0]!r} is missing, or is not one of a sweep")
    count = config.tiles if tiles is None else tiles
    single = ("level_table", *_scalars(config))
    for name in (*(single if config.circuits is None else SCALARS), *BULK):
        _check_dataset(file, path, name, _shape(name, config, count), _dtype(name, config))
    _check_dataset(file, path, TILE_DIGESTS, (count, _TILE_DIGEST_BYTES), np.dtype(np.uint8))
    return config


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """The root attributes as plain Python values."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in file.attrs.items()}


@contextmanager
def translate_errors(path: Path, why: str = "it is damaged") -> Iterator[None]:
    """Turn whatever the HDF5 library raises inside into ``FileFormatError``; our own errors and missing rights pass."""
    try:
        yield
    except (GeniexError, PermissionError):
        raise
    except Exception as error:  # a damaged file gives OSError, KeyError, RuntimeError, ValueError and others
        raise bad_file(path, f"{why} ({error})") from None


def open_file(path: Path) -> h5py.File:
    """The file, open for reading; raises ``FileFormatError`` if its seal, checked before HDF5 opens it, is broken."""
    if not path.is_file():
        raise InputError("sweep file", path, "no such file; `geniex sweep CONFIG.yaml` makes one")
    if not seal.is_intact(path):
        raise bad_file(path, "it is truncated or damaged, or is not a finished sweep")
    with translate_errors(path, "it is truncated, or is not HDF5"):
        return h5py.File(path, "r")


def bad_file(path: Path, why: str) -> FileFormatError:
    """The error for a file that is damaged, foreign or of another version."""
    return FileFormatError(f"{path}: {why}; delete it and run `geniex sweep` again, or give another file")


_ATTRIBUTES = ("format", "schema_version", "config", "solver", "solver_version", "seed", "geniex_version")


def _check_dataset(file: h5py.File, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise bad_file(path, f"it has no dataset {name!r}")
    if dataset.shape != shape or dataset.dtype != dtype:
        have = f"{dataset.dtype} {dataset.shape}"
        raise bad_file(path, f"its dataset {name!r} is {have}, but its configuration says {dtype} {shape}")


def _tile_digests(codes: NDArray[Any], voltages: NDArray[Any], currents: NDArray[Any]) -> NDArray[np.uint8]:
    """The digest of each tile, (tiles, 16); it is the same for codes of any integer type."""
    parts = (codes.astype("<u2"), voltages.astype("<f8"), currents.astype("<f8"))
    out = np.empty((len(codes), _TILE_DIGEST_BYTES), dtype=np.uint8)
    for k in range(len(codes)):
        digest = hashlib.blake2b(digest_size=_TILE_DIGEST_BYTES)
        for part in parts:
            digest.update(part[k].tobytes())
        out[k] = np.frombuffer(digest.digest(), dtype=np.uint8)
    return out


def circuit_scalars(config: SweepConfig) -> dict[str, float]:
    """The values of ``SCALARS`` for a sweep of one circuit."""
    v0, r_access = read_scalars_of(config.crossbar.cell)
    return _scalars(config) | {"v0": v0, "r_access": r_access, "slice_bits": float(config.slice_bits)}


def _scalars(config: SweepConfig) -> dict[str, float]:
    """The scalars that a sweep of one circuit stores per tile, so that readers of many circuits can read it too."""
    wires, window = config.crossbar.wires, config.window
    values = {
        "r_source": wires.r_source,
        "r_sink": wires.r_sink,
        "r_wire_row": wires.r_row,
        "r_wire_col": wires.r_col,
        "r_on": window.r_on,
        "on_off": window.on_off,
        "v_max": config.v_max,
    }
    return {name: float(value) for name, value in values.items()}


def _shape(name: str, config: SweepConfig, tiles: int) -> tuple[int, ...]:
    rows, cols = config.crossbar.rows, config.crossbar.cols
    shapes: dict[str, tuple[int, ...]] = {
        "level_table": (2**config.slice_bits,),
        "codes": (tiles, rows, cols),
        "voltages": (tiles, config.vectors, rows),
        "currents": (tiles, config.vectors, cols),
    }
    return shapes.get(name, (tiles,))


def _dtype(name: str, config: SweepConfig) -> np.dtype[Any]:
    if name == "slice_bits":
        return np.dtype(np.uint8)
    if name != "codes":
        return np.dtype(np.float64)
    return np.dtype(np.uint8 if config.circuits is not None or config.slice_bits <= 8 else np.uint16)


def _solver_version(config: SweepConfig) -> str:
    if config.engine == "native":
        return f"geniex {__version__}"
    from geniex.circuit.spice import ngspice_version

    version = ngspice_version()
    if version is None:
        raise MissingDependencyError(
            "ngspice or PySpice",
            "engine ngspice",
            f"apt-get install ngspice libngspice0-dev and {install_hint('spice')}, or use engine native",
        )
    return f"ngspice {version}"
