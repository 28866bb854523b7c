"""Files that ship with geniex: trained surrogates and small trained networks, each with its model card."""

from __future__ import annotations

from pathlib import Path

from geniex.errors import MissingDependencyError

_PACKAGE = Path(__file__).parent


def models_dir() -> Path:
    """The folder of the shipped files: inside the package in a wheel, ``models/`` in a source checkout."""
    packaged = _PACKAGE / "_models"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "models"


def shipped_file(name: str) -> Path:
    """The path of the shipped file ``name``, such as "fashion-cnn.safetensors".

    Raises:
        MissingDependencyError: no such file ships; the message lists those that do.
    """
    names = shipped_names()
    if name not in names:
        there = ", ".join(names) or "none"
        raise MissingDependencyError(
            f"shipped file {name!r}",
            "loading it by name",
            f"{models_dir()} holds {there}; for any other file, give its path",
        )
    return models_dir() / name


def shipped_names(suffix: str = "") -> list[str]:
    """The names of all shipped files that end in ``suffix``, sorted."""
    folder = models_dir()
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_file() and p.name.endswith(suffix))
