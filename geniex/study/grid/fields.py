"""Every setting that a study may fix or vary, by its dotted name."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from geniex.circuit import Crossbar
from geniex.config import Config
from geniex.errors import InputError
from geniex.jobs import share_registry
from geniex.mapping import Architecture, ConductanceWindow
from geniex.study.grid.groups import EmulatorCheck, FineTuning, Pruning
from geniex.variation import (
    ConductanceSpread,
    Drift,
    FiniteStates,
    LevelSpread,
    ProgrammingError,
    RangeSpread,
    ReadNoise,
    Retention,
    StuckCells,
    StuckLines,
    Variation,
)

Flat = dict[str, Any]
"""Settings by their dotted names."""

PLAIN = (
    "network",
    "data",
    "images",
    "first_images",
    "calibration_images",
    "calibration_start",
    "remapping_images",
    "preset",
    "tile",
    "v_max",
    "emulator",
    "layout",
    "fold",
    "mitigation",
    "circuit_positions",
    "seed",
    "draws",
    "energy",
)
"""Settings that belong to no group; their names have no dot."""
STEPS: dict[str, type[Config]] = {
    "finite_states": FiniteStates,
    "conductance_spread": ConductanceSpread,
    "range_spread": RangeSpread,
    "level_spread": LevelSpread,
    "programming_error": ProgrammingError,
    "stuck_cells": StuckCells,
    "stuck_lines": StuckLines,
    "drift": Drift,
    "retention": Retention,
    "read_noise": ReadNoise,
}
"""Steps of device variation, in the order in which they are applied."""
_ELSEWHERE = {
    "architecture.tile": "tile",
    "architecture.window": "window.r_on and window.on_off",
    "architecture.v_max": "v_max",
}
"""Fields of an architecture that follow from other settings, with the settings to give instead."""


def _of(kind: type[Config]) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind))  # type: ignore[arg-type]


GROUPS: dict[str, tuple[str, ...]] = {
    "crossbar": _of(Crossbar),
    "window": _of(ConductanceWindow),
    "architecture": tuple(name for name in _of(Architecture) if f"architecture.{name}" not in _ELSEWHERE),
    "variation": tuple(STEPS),
    "prune": _of(Pruning),
    "fine_tuning": _of(FineTuning),
    "check": _of(EmulatorCheck),
    **{f"variation.{name}": _of(kind) for name, kind in STEPS.items()},
}
"""Members of each group of settings. The members of "crossbar.cell" depend on the kind of cell."""
_WHOLE = ("variation", "prune", "check", "crossbar.cell")
"""Groups that may also be given as one value, null or a name, beside the steps of device variation."""


def register_variation(name: str, kind: type[Variation]) -> None:
    """Make ``kind``, a step of device variation of your own, a setting of studies: ``variation.NAME.FIELD``.

    Its step comes after those of geniex.

    Raises:
        InputError: ``name`` is no Python name or another step's, or ``kind`` is no complete variation.
    """
    if not (isinstance(kind, type) and issubclass(kind, Variation) and dataclasses.is_dataclass(kind)):
        raise InputError("kind", repr(kind), "it must be a dataclass that derives from Variation")
    if inspect.isabstract(kind):
        raise InputError("kind", repr(kind), "it must have all methods of a Variation")
    if not isinstance(name, str) or not name.isidentifier() or STEPS.get(name, kind) is not kind:
        raise InputError("name", repr(name), f"it must be a name other than {', '.join(STEPS)}")
    STEPS[name] = kind
    GROUPS["variation"], GROUPS[f"variation.{name}"] = tuple(STEPS), _of(kind)


share_registry(
    lambda: [(register_variation, item) for item in STEPS.items() if not item[1].__module__.startswith("geniex.")]
)


def flatten(given: Mapping[Any, Any], above: str = "") -> Flat:
    """Settings by dotted names, from nested mappings or mappings of dotted names; all names are checked.

    Raises:
        InputError: a name is unknown (the message lists the known ones) or given twice.
    """
    out: Flat = {}
    for key, value in given.items():
        name = f"{above}.{_spelled(key)}" if above else _spelled(key)
        check_name(name)
        inner = _is_group(name) and isinstance(value, Mapping)
        if _is_group(name) and name not in (*_WHOLE, *(f"variation.{step}" for step in STEPS)) and not inner:
            raise InputError(name, repr(value), f"it must be a mapping of {', '.join(GROUPS[name])}")
        for found, single in (flatten(value, name) if inner else {name: value}).items():
            if found in out:
                raise InputError(found, repr(single), "it is given twice")
            out[found] = single
    _check_wholes(out)
    return out


def override(base: Flat, changes: Flat) -> Flat:
    """``base`` with ``changes``: a group given as one value replaces its members; a member replaces a null group."""
    out = dict(base)
    for name in changes:
        out = {known: value for known, value in out.items() if not known.startswith(f"{name}.")}
    for name in changes:
        for group in _groups_around(name):
            if group in out and out[group] is None:
                del out[group]
    out |= changes
    _check_wholes(out)
    return out


def check_name(name: str) -> None:
    """Raise ``InputError`` unless ``name`` is a setting; the message lists the known ones."""
    if name in _ELSEWHERE:
        raise InputError(name, "a field that the crossbar sets", f"set {_ELSEWHERE[name]}")
    group, _, member = name.rpartition(".")
    if group == "crossbar.cell" and member:  # the fields depend on the kind of cell; ``PointSettings.of`` checks them
        return
    if group and not _is_group(group):
        check_name(group)
        raise InputError(name, "an unknown field", f"{group} has no fields")
    allowed = GROUPS[group] if group else (*PLAIN, *(name for name in GROUPS if "." not in name))
    if member not in allowed:
        raise make_unknown_error(name, member, allowed)


def make_unknown_error(name: str, member: str, allowed: Iterable[str]) -> InputError:
    """The error for a ``member`` that is not ``allowed``; it suggests the nearest allowed name."""
    names = tuple(allowed)
    near = difflib.get_close_matches(member, names, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    return InputError(name, "an unknown field", f"{guess}fields are {', '.join(names)}")


def _spelled(key: object) -> str:
    # YAML 1.1 reads the bare words on and off as booleans.
    return {True: "on", False: "off"}[key] if isinstance(key, bool) else str(key)


def _is_group(name: str) -> bool:
    return name in GROUPS or name == "crossbar.cell"


def _groups_around(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts))]


def _check_wholes(flat: Flat) -> None:
    for name, value in flat.items():
        for group in _groups_around(name):
            if group in flat:
                given = f"{value!r}, while {group} is {flat[group]!r}"
                raise InputError(name, given, f"give {group} as a mapping of its fields, or as one value")
