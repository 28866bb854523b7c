"""The YAML files of the studies that ship for ``geniex study``."""

from __future__ import annotations

from pathlib import Path

from geniex.errors import InputError

_HERE = Path(__file__).parent


def list_shipped_studies() -> list[str]:
    """The names of the studies that ship, sorted."""
    return sorted(path.name for path in _HERE.glob("*.yaml"))


def find_study(name: str | Path) -> Path:
    """The path of a study: the file ``name`` if it exists, else the shipped study of that name.

    Raises:
        InputError: ``name`` is neither a file nor a shipped study; the message lists the shipped ones.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        return path
    if str(name) in list_shipped_studies():
        return _HERE / str(name)
    raise InputError(
        "config", str(name), f"there is no such file: give a file, or one of {', '.join(list_shipped_studies())}"
    )
