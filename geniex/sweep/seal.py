"""The seal of a sweep file: bytes after the end of the HDF5 content, which tell whether that content is unchanged.

HDF5's own checksums cover the data of each chunk, but not the headers, attributes and indices that say which chunk is
where. With a flipped bit there, the library may return other data, raise any of many errors, or never return.
The seal holds the positions of the chunks of the large datasets, and a digest of all other bytes. A reader can thus
trust those bytes before HDF5 looks at them, without reading the samples. The samples have digests of their own, see
``geniex.sweep.layout``. HDF5 does not see bytes after the end that is recorded in its superblock.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

_MAGIC = b"GENIEX-SWEEP-SEAL-1"
_TAIL = struct.Struct(f"<32sQ{len(_MAGIC)}s")
"""The end of the seal, after the packed extents: the digest, the packed length of the extents, the magic word."""
_BLOCK = 1 << 20
"""Bytes that are hashed at a time."""
_NOTHING: NDArray[np.int64] = np.zeros((0, 2), dtype=np.int64)


def add_seal(image: bytes | memoryview) -> bytes:
    """The bytes of a whole small file with its seal, whose digest covers all of them."""
    data = bytes(image)
    return data + _seal(io.BytesIO(data), len(data), _NOTHING)


def append(path: Path, names: Iterable[str]) -> None:
    """Append the seal to a closed HDF5 file; its digest leaves out the chunks of the datasets ``names``."""
    with h5py.File(path, "r") as file:
        extents = _extents(file, names)
    with open(path, "r+b") as raw:
        end = raw.seek(0, io.SEEK_END)
        tail = _seal(raw, end, extents)
        raw.seek(end)
        raw.write(tail)


def is_intact(path: Path) -> bool:
    """Whether the file ends in a seal and the bytes that it covers are unchanged; ``OSError`` if it cannot be read."""
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        if size < _TAIL.size:
            return False
        file.seek(size - _TAIL.size)
        digest, packed, magic = _TAIL.unpack(file.read(_TAIL.size))
        end = size - _TAIL.size - packed
        if magic != _MAGIC or end < 0:
            return False
        file.seek(end)
        extents = _unpacked(file.read(packed), end)
        return extents is not None and _digest(file, end, extents) == digest


def _extents(file: h5py.File, names: Iterable[str]) -> NDArray[np.int64]:
    """The extents (n, 2) of runs of adjacent chunks, in order: the first byte, and the byte after the last."""
    chunks: list[tuple[int, int]] = []
    for name in names:
        file[name].id.chunk_iter(lambda chunk: chunks.append((chunk.byte_offset, chunk.byte_offset + chunk.size)))
    found = np.array(sorted(chunks), dtype=np.int64).reshape(-1, 2)
    apart = np.flatnonzero(found[1:, 0] != found[:-1, 1])
    return np.stack([found[[0, *(apart + 1)], 0], found[[*apart, -1], 1]], 1) if len(found) else _NOTHING


def _seal(file: BinaryIO, end: int, extents: NDArray[np.int64]) -> bytes:
    packed = zlib.compress(extents.astype("<i8").tobytes())
    return packed + _TAIL.pack(_digest(file, end, extents), len(packed), _MAGIC)


def _unpacked(packed: bytes, end: int) -> NDArray[np.int64] | None:
    """The extents that were packed; None where they cannot belong to a file of ``end`` bytes."""
    try:
        extents = np.frombuffer(zlib.decompress(packed), dtype="<i8").reshape(-1, 2)
    except (zlib.error, ValueError):
        return None
    flat = extents.ravel()
    in_order = len(flat) == 0 or (flat[0] >= 0 and flat[-1] <= end and bool((np.diff(flat) >= 0).all()))
    return extents if in_order else None


def _digest(file: BinaryIO, end: int, extents: NDArray[np.int64]) -> bytes:
    """SHA-256 of the extents, and of the bytes before ``end`` that lie outside of them."""
    digest = hashlib.sha256(extents.astype("<i8").tobytes())
    starts, stops = [0, *extents[:, 1].tolist()], [*extents[:, 0].tolist(), end]
    for start, stop in zip(starts, stops, strict=True):
        file.seek(start)
        for at in range(start, stop, _BLOCK):
            digest.update(file.read(min(_BLOCK, stop - at)))
    return digest.digest()
