"""Checks of the files that verbs write, made before the work whose results go into them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from geniex.errors import InputError
from geniex.files import to_standard_json


def check_file(option: str, path: Path | None) -> None:
    """Create the folder of ``path``; raise ``InputError`` if no file can be written at this path."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(option, path, "it is a folder; give a file's path")
    check_folder(option, path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(option, path, "it is not writable; give another path")


def check_folder(option: str, path: Path | None) -> None:
    """Create the folder ``path``; raise ``InputError`` if it cannot be created or is not writable."""
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(option, path, f"the folder cannot be created ({error.strerror}); give another path") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(option, path, "the folder is not writable; give another path")


def write_json(path: Path | None, data: Any) -> None:
    """Write ``data`` to ``path`` as JSON; do nothing if ``path`` is None."""
    if path is not None:
        path.write_text(json.dumps(to_standard_json(data), indent=1) + "\n", encoding="utf-8")
