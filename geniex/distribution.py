"""The name under which geniex is installed, and the check for another project's package of the name ``geniex``.

The package is imported as ``geniex`` but installed as ``geniex-crossbar``, because the distribution ``geniex`` on PyPI
belongs to another project, whose modules are imported as ``geniex`` too. Where both are installed in one folder, the
files of one replace those of the other. This module detects that. It is cheap, because every ``import geniex`` runs it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import Distribution

NAME = "geniex-crossbar"
"""The name by which pip knows this package."""
_STRANGER = "geniex"
_COMMAND = "geniex.cli.main:main"
"""The entry point of our shell command; a distribution that installs it is ours, whatever its name."""
_WAY_OUT = f"run `pip uninstall {_STRANGER} {NAME}`, then install {NAME} again"


def install_hint(*extras: str) -> str:
    """The command that installs geniex, with the optional dependencies in ``extras``.

    >>> install_hint("plot")
    "pip install 'geniex-crossbar[plot]'"
    """
    return f"pip install '{NAME}[{','.join(extras)}]'" if extras else f"pip install {NAME}"


def find_strangers(folders: list[str] | None = None) -> list[str]:
    """Other projects' distributions named ``geniex``, each with its version and place.

    Args:
        folders: the folders to search; None means all from which Python imports.
    """
    return [_told(found) for found in _strangers(folders)]


def find_conflict() -> str | None:
    """The problem where another project's modules have mixed with ours, and the way out; None if there is none."""
    imported = sys.modules["geniex"]
    if getattr(imported, "__distribution__", None) != NAME:
        where = getattr(imported, "__file__", None) or "a folder without __init__.py"
        return f"`import geniex` finds another project's package ({where}): {_WAY_OUT}"
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    mixed = [found for found in _strangers([folder]) if _has_modules(found)] if _may_have_a_stranger(folder) else []
    if not mixed:
        return None
    return f"the files of another project, {_told(mixed[0])}, are mixed with those of {NAME}: {_WAY_OUT}"


def check_import() -> None:
    """Raise ``ImportError`` where another project's modules have mixed with ours.

    The ``geniex`` command is exempt: it says in one line what is wrong, and ``geniex doctor`` goes on to tell more.
    """
    program = os.path.basename((getattr(sys, "argv", None) or [""])[0])
    if program not in ("geniex", "geniex.exe") and (why := find_conflict()) is not None:
        raise ImportError(why)


def _may_have_a_stranger(folder: str) -> bool:
    """Whether file names in a folder suggest a distribution ``geniex``; a listing is far cheaper than the metadata."""
    try:
        names = os.listdir(folder)
    except OSError:  # the package lies in an archive, where pip installs nothing
        return False
    return any(name.lower().startswith(f"{_STRANGER}-") for name in names)


def _strangers(folders: list[str] | None) -> list[Distribution]:
    from importlib import metadata

    found = metadata.distributions(name=_STRANGER, path=sys.path if folders is None else folders)
    apart = {str(_folder(one)): one for one in found if _COMMAND not in (one.read_text("entry_points.txt") or "")}
    return list(apart.values())


def _has_modules(distribution: Distribution) -> bool:
    """Whether a distribution has put modules into the folder of the package, as an editable install does not."""
    files = distribution.files
    return files is None or any(path.parts[0] == "geniex" and path.suffix == ".py" for path in files)


def _folder(distribution: Distribution) -> Any:
    return distribution.locate_file("")


def _told(distribution: Distribution) -> str:
    return f"{_STRANGER} {distribution.version} in {_folder(distribution)}"
