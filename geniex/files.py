"""Files that are written whole or not at all, and whose digest shows whether they have changed since."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geniex import __version__
from geniex.errors import FileFormatError, GeniexError

if TYPE_CHECKING:
    from torch import Tensor

_SEAL = "content_sha256"
"""The key, in a JSON object or in a safetensors file's metadata, that holds the digest of all other content."""


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace ``path`` by ``data``: a reader sees the old file or the new one, also after a crash.

    The bytes go to a file of this process beside ``path`` and are made durable before that file is renamed; then the
    new name is made durable too. A failure at any step leaves ``path`` as it was, and no other file.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make the content of a file, or the entries of a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_json(data: bytes) -> Any:
    """The value of JSON text; raises ``ValueError`` where the text is not JSON."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def to_standard_json(value: Any) -> Any:
    """A copy of ``value`` in which numbers that standard JSON lacks are strings: "inf", "-inf" or "nan"."""
    if isinstance(value, Mapping):
        return {key: to_standard_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_standard_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def add_digest(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data``, which must be JSON-ready, with the digest of its content added."""
    return {**data, _SEAL: _content_digest(data)}


def is_sealed(data: Any) -> bool:
    """Whether ``data``, read from JSON, still matches the digest that ``add_digest`` added."""
    return isinstance(data, dict) and data.get(_SEAL) == _content_digest(data)


def write_sealed_json(path: Path, data: Mapping[str, Any], indent: int | None = None) -> None:
    """Replace ``path`` by ``data`` as JSON with the digest of its content; it is written whole or not at all."""
    write_atomically(path, (json.dumps(add_digest(to_standard_json(data)), indent=indent) + "\n").encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Replace ``path`` by a safetensors file of ``tensors`` with their digest; it is written whole or not at all.

    The file says also ``about``, by which ``read_tensors`` recognises it.
    """
    from safetensors.torch import save

    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(kept, {**(about or {}), _SEAL: digest_tensors(kept)}))


def read_tensors(path: Path, about: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The tensors that ``write_tensors`` wrote with the same ``about``.

    Raises:
        FileFormatError: the file is missing, damaged or foreign.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = file.metadata() or {}
    except Exception as error:  # safetensors raises many kinds of errors on damaged headers
        raise FileFormatError(f"{path} cannot be read ({error})") from None
    if told.get(_SEAL) != digest_tensors(tensors):
        raise FileFormatError(f"{path} is damaged: its content is not what was written")
    for name, value in (about or {}).items():
        if told.get(name) != value:
            raise FileFormatError(f"{path} holds other tensors: its {name} is {told.get(name)!r} and not {value!r}")
    return tensors


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of the names, dtypes, shapes and values of ``tensors``."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), tuple(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _content_digest(data: Mapping[str, Any]) -> str:
    # The digest is of the data as it reads back, because JSON has no tuples and only strings as keys.
    plain = json.loads(json.dumps({key: value for key, value in data.items() if key != _SEAL}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_head(
    path: Path, form: str, version: int, *, what: str, way_out: str, error: type[GeniexError]
) -> dict[str, Any]:
    """The JSON object, of the format ``form`` in this schema ``version``, that describes the tensors beside it.

    Raises:
        ``error``: the file is missing, not JSON, of another format or version, or changed since it was written; the
            message names ``what`` the file should be and the ``way_out``.
    """
    if not path.is_file():
        raise error(f"{path} is missing; {what} consists of a .safetensors and a .json file: {way_out}")
    try:
        head = parse_json(path.read_bytes())
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror}): {way_out}") from None
    except ValueError as problem:
        raise error(f"{path} is not valid JSON ({problem}): {way_out}") from None
    if not isinstance(head, dict) or head.get("format") != form:
        raise error(f"{path} does not describe {what}: {way_out}")
    if head.get("schema_version") != version:
        raise error(
            f"{path} has schema version {head.get('schema_version')},"
            f" but this version of geniex ({__version__}) reads {version}: use the version"
            f" that wrote it ({head.get('geniex_version')}), or {way_out}"
        )
    if not is_sealed(head):
        raise error(f"{path} was changed or damaged: its content does not match its {_SEAL!r}: {way_out}")
    return head
