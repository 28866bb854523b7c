"""The YAML files that ship for ``geniex study`` and ``geniex remap``, in a folder named after each verb."""

from __future__ import annotations

from pathlib import Path

from geniex.errors import InputError

_HERE = Path(__file__).parent
_VERBS = ("study", "remap")


def shipped_configs(verb: str) -> list[str]:
    """The names of the configurations that ship for ``geniex VERB``, sorted."""
    return sorted(path.name for path in (_HERE / verb).glob("*.yaml"))


def config_path(verb: str, name: str | Path) -> Path:
    """The path of a configuration for ``geniex VERB``: the file ``name`` if it exists, else the shipped one.

    Raises:
        InputError: ``name`` is neither a file nor a configuration that ships for this verb; the message lists these.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        return path
    names = shipped_configs(verb)
    if str(name) in names:
        return _HERE / verb / str(name)
    others = [other for other in _VERBS if str(name) in shipped_configs(other)]
    what = f"this one ships for geniex {others[0]}" if others else "no such file"
    raise InputError("config", str(name), f"{what}; shipped are {', '.join(names)}")
