"""Sets of sweeps, with one file for each shape and cell, and the index that holds them together."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geniex.cells import Cell, OneTransistorOneResistor
from geniex.config import Config, check_positive_int
from geniex.errors import FileFormatError, InputError, SweepError
from geniex.files import is_sealed, parse_json, write_sealed_json
from geniex.jobs import Executor
from geniex.sweep.config import SweepConfig
from geniex.sweep.file import SweepFile
from geniex.sweep.run import SweepObserver, run_sweeps

FORMAT = "geniex-sweep-set"
VERSION = 1
INDEX = "index.json"


@dataclass(frozen=True)
class SweepSet(Config):
    """A set with one sweep for each shape and each cell; the sweeps are otherwise alike."""

    shapes: tuple[tuple[int, int], ...]
    """Rows and columns of each shape."""
    cells: tuple[Cell, ...]
    """Cell models."""
    common: SweepConfig
    """Configuration that the sweeps share. Its crossbar gives only the wires; each sweep derives its seed from its
    seed."""

    def __post_init__(self) -> None:
        if not isinstance(self.common, SweepConfig):
            raise InputError("common", repr(self.common), "it must be a SweepConfig")
        for name in ("shapes", "cells"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or not values:
                raise InputError(name, repr(values), "it must be a list with at least one entry")
        object.__setattr__(self, "shapes", tuple(_shape(shape) for shape in self.shapes))
        object.__setattr__(self, "cells", tuple(_cell(cell) for cell in self.cells))
        for name in ("shapes", "cells"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise InputError(name, repr(values), "each entry may be given only once")
        self.sweeps()

    def sweeps(self) -> dict[str, SweepConfig]:
        """The sweeps by file name; the seed of each follows from the set's seed, the shape and the cell's position."""
        names = [_name(cell) for cell in self.cells]
        out = {}
        for rows, cols in self.shapes:
            for k, cell in enumerate(self.cells):
                seed = np.random.SeedSequence([self.common.seed, rows, cols, k]).generate_state(1)[0]
                name = names[k] if names.count(names[k]) == 1 else f"{names[k]}-{k}"
                crossbar = self.common.crossbar.replace(rows=rows, cols=cols, cell=cell)
                out[f"{rows}x{cols}-{name}.h5"] = self.common.replace(crossbar=crossbar, seed=int(seed))
        return out

    @property
    def tiles(self) -> int:
        """Number of conductance matrices in all sweeps together."""
        return len(self.shapes) * len(self.cells) * self.common.tiles


def run_sweep_set(
    sweeps: SweepSet,
    out: str | Path,
    workers: int | None = None,
    observer: SweepObserver | None = None,
    executor: Executor = "local",
) -> Path:
    """Solve a set of sweeps, each into a file in the directory ``out``; returns the path of ``index.json`` beside them.

    A second call after any interruption solves only what is missing. Sweeps that fail do not stop the others;
    they are listed at the end, and a second call tries them again.

    Args:
        sweeps: the set to solve.
        out: the directory to make; its parent must exist.
        workers: number of processes; None means one per processor.
        observer: the listener that is told of the progress over the whole set.
        executor: where the solver runs, as in ``run_sweep``.

    Raises:
        InputError, SweepError, JobError, MissingDependencyError: the same cases as in ``run_sweep``.
    """
    out = Path(out)
    if not out.parent.is_dir() or (out.exists() and not out.is_dir()):
        raise InputError("out", out, "it must be a directory, or the path of a new one in an existing directory")
    index = out / INDEX
    if index.exists() and _parsed(index)["set"] != sweeps:
        raise SweepError(f"{out}: it holds the sweeps of another set; give another --out, or delete it")
    out.mkdir(exist_ok=True)
    plans = {out / name: config for name, config in sweeps.sweeps().items()}
    failures = run_sweeps(plans, workers, observer, executor)
    if failures:
        listed = "; ".join(f"{path.name}: {why}" for path, why in failures.items())
        raise SweepError(
            f"{len(failures)} of {len(plans)} sweeps are not finished; run the same command again to retry: {listed}"
        )
    if not index.exists():
        _write(index, sweeps, list(plans))
    return index


class SweepIndex:
    """A finished set of sweeps on disk, opened by its ``index.json`` or by the directory that holds it.

    Raises:
        InputError: no such file.
        FileFormatError: the file is no index, or a file that it lists is missing, damaged or of another sweep.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = (path / INDEX if path.is_dir() else path).resolve()
        data = _parsed(self.path)
        self.set: SweepSet = data["set"]
        wanted, self._digests = self.set.sweeps(), {entry["file"]: entry["digest"] for entry in data["files"]}
        if list(self._digests) != list(wanted):
            raise _bad(self.path, "it does not list the files of its set")
        self.files: list[SweepFile] = [self._opened(name, config) for name, config in wanted.items()]
        """The files of the set, in the order of its shapes and cells."""

    def _opened(self, name: str, config: SweepConfig) -> SweepFile:
        try:
            file = SweepFile(self.path.parent / name)
        except InputError:
            raise _bad(self.path, f"it lists {name}, which does not exist") from None
        if file.config != config:
            raise _bad(self.path, f"{name} holds a sweep other than the one that the index describes")
        return file

    @property
    def tiles(self) -> int:
        """Number of conductance matrices in all files together."""
        return sum(file.tiles for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 over the files' digests as the index lists them, in hexadecimal."""
        return hashlib.sha256("".join(self._digests.values()).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"SweepIndex({str(self.path)!r}): {self.tiles} tiles in {len(self.files)} files"


def _write(index: Path, sweeps: SweepSet, paths: list[Path]) -> None:
    files = []
    for path in paths:
        file = SweepFile(path)
        files.append(
            {
                "file": path.name,
                "rows": file.crossbar.rows,
                "cols": file.crossbar.cols,
                "cell": type(file.crossbar.cell).__name__,
                "tiles": file.tiles,
                "digest": file.digest,
            }
        )
        file.close()
    write_sealed_json(index, {"format": FORMAT, "version": VERSION, "set": sweeps.to_dict(), "files": files}, indent=1)


def _parsed(index: Path) -> dict[str, Any]:
    try:
        data = parse_json(index.read_bytes())
    except FileNotFoundError:
        raise InputError(
            "sweep index",
            index,
            "no such file; `geniex sweep SET.yaml` writes it when all sweeps are finished",
        ) from None
    except ValueError:
        raise _bad(index, "it cannot be read as JSON") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise _bad(index, "it is not the index of a set of sweeps")
    if data.get("version") != VERSION:
        raise _bad(index, f"it has version {data.get('version')!r}, but this version of geniex reads {VERSION}")
    if not is_sealed(data):
        raise _bad(index, "it was changed or damaged since it was written")
    try:
        return data | {"set": SweepSet.from_dict(data["set"]), "files": [dict(entry) for entry in data["files"]]}
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(index, f"it is damaged ({error})") from None


def open_sweep(path: str | Path) -> SweepFile | SweepIndex:
    """The sweep file at ``path``, or the set of sweeps whose index or folder it is."""
    return SweepIndex(path) if Path(path).is_dir() or Path(path).suffix == ".json" else SweepFile(path)


def _bad(index: Path, why: str) -> FileFormatError:
    return FileFormatError(f"{index}: {why}; delete it and run `geniex sweep` again, or give another set")


def _shape(shape: Any) -> tuple[int, int]:
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise InputError("shapes", repr(shape), "each shape must be [rows, cols]")
    for size in shape:
        check_positive_int("shapes", size)
    return (shape[0], shape[1])


def _cell(cell: Any) -> Cell:
    if isinstance(cell, dict):
        cell = Cell.from_dict(cell)
    if not isinstance(cell, Cell):
        raise InputError("cells", repr(cell), "it must be a geniex Cell, such as {_type: SinhCell}")
    return cell


def _name(cell: Cell) -> str:
    if isinstance(cell, OneTransistorOneResistor):
        return "1t1r"
    return type(cell).__name__.removesuffix("Cell").lower()
