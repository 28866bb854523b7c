"""The directory of finished shards beside a sweep's output, from which a killed sweep resumes."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geniex.errors import SweepError
from geniex.files import parse_json, sync, write_atomically
from geniex.sweep import layout, seal
from geniex.sweep.config import SweepConfig
from geniex.sweep.solving import TileData

_LOCK, _MANIFEST, _MERGED = "lock", "manifest.json", "merged.tmp"


@dataclass(frozen=True)
class ShardDirectory:
    """The shards of one sweep. Each is written aside, then renamed, so a shard that is there is whole and durable."""

    path: Path
    """The path ``<out>.shards``, beside the output and so on the same file system."""
    config: SweepConfig
    """Configuration of the sweep."""
    attributes: dict[str, Any]
    """Root attributes of every shard and of the merged file."""

    @classmethod
    def beside(cls, out: Path, config: SweepConfig, attributes: dict[str, Any]) -> ShardDirectory:
        """The shard directory that belongs to the output ``out``; nothing is created yet."""
        return cls(out.with_name(f"{out.name}.shards"), config, attributes)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory against other processes; it is created if it is missing."""
        self.path.mkdir(exist_ok=True)
        with open(self.path / _LOCK, "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The process that held the lock may just have finished and removed the directory.
                gone = not os.path.samestat(os.stat(self.path / _LOCK), os.fstat(lock.fileno()))
            except BlockingIOError:
                raise SweepError(f"{self.path}: another sweep works here; wait for it or give another --out") from None
            except FileNotFoundError:
                gone = True
            if gone:
                raise SweepError(f"{self.path}: another sweep has just finished here; run again")
            yield

    def claim(self) -> None:
        """Mark the directory as this sweep's, or check that it is; files left by killed writers are removed.

        Raises:
            SweepError: the directory belongs to a sweep of another configuration or solver version.
        """
        manifest = self.path / _MANIFEST
        for leftover in self.path.glob("*.tmp"):
            leftover.unlink()
        if manifest.exists():
            self._check_owner(manifest)
        elif set(os.listdir(self.path)) - {_LOCK}:
            raise SweepError(f"{self.path}: it holds files but no manifest; move it away or give another --out")
        else:
            write_atomically(manifest, json.dumps(self.attributes, indent=1).encode())

    def finished(self, shard: int) -> bool:
        """Whether the shard is there.

        Raises:
            FileFormatError: the shard is there but damaged, or belongs to another sweep.
        """
        path = self._shard(shard)
        if not path.exists():
            return False
        self.load(shard)
        return True

    def load(self, shard: int) -> TileData:
        """The tiles of a finished shard, after every checksum has been checked."""
        path, (start, stop) = self._shard(shard), self.config.shard_range(shard)
        with layout.translate_errors(path), layout.open_file(path) as file:
            layout.check(file, path, stop - start)
            if layout.read_attributes(file) != self._attributes(shard):
                raise layout.bad_file(path, "it belongs to another sweep, or to another place in this one")
            return layout.read(file, 0, stop - start)

    def store(self, shard: int, data: TileData) -> None:
        """Write a solved shard durably; raises ``OSError`` where the disk does not take it."""
        image = io.BytesIO()
        with layout.create(image, self.config, len(data.codes), self._attributes(shard)) as file:
            layout.write(file, 0, data)
        write_atomically(self._shard(shard), seal.add_seal(image.getbuffer()))

    def merge(self, out: Path) -> None:
        """Write all shards into ``out``, one at a time, and remove the directory once ``out`` is durable."""
        merged = self.path / _MERGED
        with _Sink(merged, "w+") as sink:
            with layout.create(sink, self.config, self.config.tiles, self.attributes) as file:
                for shard in range(self.config.shards):
                    layout.write(file, self.config.shard_range(shard)[0], self.load(shard))
                    if sink.error is not None:
                        break
            if sink.error is not None:
                merged.unlink()
                raise sink.error
            seal.append(merged, layout.BULK)
            os.fsync(sink.fileno())
        os.replace(merged, out)
        sync(out.parent)
        self.remove()

    def remove(self) -> None:
        """Delete the directory and everything in it."""
        shutil.rmtree(self.path)

    def _attributes(self, shard: int) -> dict[str, Any]:
        """The attributes of one shard's file, which tell its place: a shard in another's place holds other tiles."""
        return self.attributes | {"shard": shard}

    def _shard(self, shard: int) -> Path:
        return self.path / f"{shard:06d}.h5"

    def _check_owner(self, manifest: Path) -> None:
        try:
            found = parse_json(manifest.read_bytes())
            where = _difference(_parsed(found), _parsed(self.attributes))
        except (ValueError, KeyError, TypeError):
            where = "manifest"
        if where:
            raise SweepError(
                f"{self.path}: it holds the shards of another sweep ({where} differs);"
                " give another --out, or delete that directory to start over"
            )


class _Sink(io.FileIO):
    """A file that remembers a failed write and ignores later writes, because HDF5 would crash on a full disk."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data``; once a write has failed, write nothing more."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left and self.error is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = OSError(error.errno, error.strerror, str(self.name))
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size; a failure is remembered as that of a write is."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or OSError(error.errno, error.strerror, str(self.name))
            return size or 0


def _parsed(attributes: dict[str, Any]) -> dict[str, Any]:
    return attributes | {"config": json.loads(attributes["config"])}


def _difference(a: Any, b: Any, name: str = "") -> str:
    """The dotted name of the first value in which two nested mappings differ, or "" if they are equal."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return "" if a == b else name
    for key in sorted({*a, *b}):
        if key not in a or key not in b:
            return f"{name}.{key}".lstrip(".")
        where = _difference(a[key], b[key], f"{name}.{key}".lstrip("."))
        if where:
            return where
    return ""
