"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from geniex import __version__
from geniex.errors import GeniexError


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace ``path`` by ``data``: a reader sees the old file or the new one, also after a crash.

    The bytes go to a file of this process' own beside ``path`` and are durable before it is renamed; then the
    new name is made durable too. Whatever fails leaves ``path`` as it was and nothing beside it.
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
    """Make a file's content, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_head(
    path: Path, form: str, version: int, *, what: str, way_out: str, error: type[GeniexError]
) -> dict[str, Any]:
    """The JSON that describes the tensors beside it, of the format ``form`` in this schema ``version``.

    Raises:
        ``error``: missing, no JSON, or of another format or version; it says so of ``what``, and the ``way_out``.
    """
    if not path.is_file():
        raise error(f"{path} is missing; {what} is a .safetensors and a .json: {way_out}")
    try:
        head = json.loads(path.read_bytes())
    except ValueError as problem:
        raise error(f"{path} is no JSON ({problem}): {way_out}") from None
    if not isinstance(head, dict) or head.get("format") != form:
        raise error(f"{path} does not describe {what}: {way_out}")
    if head.get("schema_version") != version:
        raise error(
            f"{path} has schema version {head.get('schema_version')}, this geniex ({__version__}) reads {version}:"
            f" use the geniex that wrote it ({head.get('geniex_version')}), or {way_out}"
        )
    return head
