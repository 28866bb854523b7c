"""Finished results on disk, found again by the digest of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from geniex.errors import FileFormatError, JobError
from geniex.files import (
    add_digest,
    digest_tensors,
    is_sealed,
    parse_json,
    read_tensors,
    write_atomically,
    write_tensors,
)


class ResultStore:
    """Results under one folder, each in its own file, so that a killed run can go on from those that are finished.

    A result is JSON-ready or a mapping of tensors. Its ``key`` is the ``digest`` of everything that it depends on; its
    ``name`` is for people who look into the folder. A file appears whole or not at all. A file that is missing, cut,
    changed, foreign or of another key has no result, and its result is computed and written again.

    >>> import tempfile
    >>> store = ResultStore(Path(tempfile.mkdtemp()), "squares-1")
    >>> store.load("three", digest(3))
    >>> store.keep("three", digest(3), 9)
    >>> store.load("three", digest(3)), store.load("three", digest(4))
    (9, None)
    """

    def __init__(self, folder: str | Path | None, form: str) -> None:
        """A store in ``folder``, which is made if it is missing; without a folder nothing is kept.

        ``form`` names what the results mean and in which version; a file of another form has no result.

        Raises:
            JobError: the folder cannot be made.
        """
        self.folder, self._form = None if folder is None else Path(folder), form
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise JobError(f"{folder}: {error.strerror}; choose another folder for the results") from error

    def load(self, name: str, key: str) -> Any | None:
        """The JSON-ready result of ``key``; None if there is none."""
        if self.folder is None:
            return None
        try:
            held = parse_json(self._path(name, key, "json").read_bytes())
        except (OSError, ValueError):  # the file is missing or is not JSON
            return None
        return held["result"] if is_sealed(held) and held | self._head(key) == held else None

    def keep(self, name: str, key: str, result: Any) -> None:
        """Keep a JSON-ready result; raises ``JobError`` if the disk does not take it."""
        if self.folder is not None:
            data = json.dumps(add_digest({**self._head(key), "result": result})) + "\n"
            self._write(self._path(name, key, "json"), lambda path: write_atomically(path, data.encode()))

    def load_tensors(self, name: str, key: str) -> dict[str, Tensor] | None:
        """The tensors of ``key``, on the CPU; None if there are none."""
        if self.folder is None:
            return None
        try:
            return read_tensors(self._path(name, key, "safetensors"), self._head(key))
        except FileFormatError:
            return None

    def keep_tensors(self, name: str, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors by their names; raises ``JobError`` if the disk does not take them."""
        if self.folder is not None:
            self._write(
                self._path(name, key, "safetensors"), lambda path: write_tensors(path, tensors, self._head(key))
            )

    def _head(self, key: str) -> dict[str, str]:
        return {"format": self._form, "key": key}

    def _path(self, name: str, key: str, suffix: str) -> Path:
        assert self.folder is not None
        plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
        return self.folder / f"{plain}-{key[:24]}.{suffix}"

    def _write(self, path: Path, write: Callable[[Path], None]) -> None:
        try:
            write(path)
        except OSError as error:
            why = error.strerror or error
            way_out = f"finished results are kept in {self.folder}: free some space and repeat the call to continue"
            raise JobError(f"{path}: {why}; {way_out}") from error


@runtime_checkable
class Content(Protocol):
    """A value whose content is tensors and text, such as the arguments of a model's calls."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, by its place."""

    def others(self) -> list[str]:
        """Everything else, as text."""


def digest(*parts: Any) -> str:
    """The SHA-256 (hex) of tensors, dictionaries of tensors, ``Content``, and JSON-ready values."""
    hashed = hashlib.sha256()
    for part in parts:
        if isinstance(part, Content):
            hashed.update(digest(part.tensors(), part.others()).encode())
            continue
        tensors = {"": part} if isinstance(part, Tensor) else part
        if isinstance(tensors, dict) and tensors and all(isinstance(x, Tensor) for x in tensors.values()):
            hashed.update(digest_tensors(tensors).encode())
        else:
            hashed.update(json.dumps(part, sort_keys=True).encode())
    return hashed.hexdigest()
