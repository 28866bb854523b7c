"""Studies that ship as YAML files, and where they are."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def shipped_configs() -> list[str]:
    """The names of all shipped configurations, sorted."""
    return sorted(path.name for path in _HERE.glob("*.yaml"))


def found(name: str) -> str:
    """The path of a configuration: ``name`` itself where there is such a file, else the shipped one of that name."""
    shipped = _HERE / name
    return str(shipped) if not Path(name).is_file() and name in shipped_configs() else name
