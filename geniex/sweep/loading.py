"""Sweeps and sets of sweeps, read from YAML."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml

from geniex.circuit import Crossbar
from geniex.config import Config
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.preset import presets
from geniex.sweep.circuits import CircuitRanges
from geniex.sweep.config import SweepConfig
from geniex.sweep.sets import SweepSet
from geniex.sweep.strategies import SampleMix

_C = TypeVar("_C", bound=Config)
_PLACEHOLDERS: dict[str, Any] = {"window": ConductanceWindow(100e3, 6.0), "v_max": 0.25}
"""Placeholders in a sweep that spans circuits, for the fields that each tile draws itself."""


_NESTED: dict[str, type[Config]] = {
    "crossbar": Crossbar,
    "window": ConductanceWindow,
    "circuits": CircuitRanges,
    "tiles_from": SampleMix,
    "vectors_from": SampleMix,
}
"""Fields that are mappings in YAML, and the class that each of them describes."""


def load_sweep_config(path: str | Path) -> SweepConfig:
    """The sweep that a YAML file describes by the fields of ``SweepConfig``, with nested fields as mappings.

    ``preset: geniex-32`` stands for the crossbar, window and v_max of that preset. A cell names its class:
    ``cell: {_type: SinhCell, v0: 0.25}``. ``tiles_from: {levels: 1, network: 1}`` gives the strategies their weights.
    With ``circuits: {...}``, each tile draws its own circuit: give only the crossbar's rows, cols and cell.

    Raises:
        InputError: the file is missing, is not YAML, or has unknown, missing or wrong fields.
    """
    sweep = load_sweep(path)
    if isinstance(sweep, SweepSet):
        raise InputError("config", path, "it describes a set of sweeps (with shapes and cells), not a single one")
    return sweep


def load_sweep_set(path: str | Path) -> SweepSet:
    """The set of sweeps that a YAML file describes: ``shapes``, ``cells``, and the fields that all sweeps share.

    The shared fields are those of a single sweep's file, except that ``crossbar``, if given, holds only the wires.

    Raises:
        InputError: the same cases as in ``load_sweep_config``.
    """
    sweeps = load_sweep(path)
    if not isinstance(sweeps, SweepSet):
        raise InputError("config", path, "it describes a single sweep; a set has the fields shapes and cells")
    return sweeps


def load_sweep(path: str | Path) -> SweepConfig | SweepSet:
    """The set of sweeps that a YAML file describes where it has ``shapes``, else the single sweep."""
    path = Path(path)
    try:
        data = read_yaml(path)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("config", path, "no such file; the shipped sweeps are in spice_data/") from None
    try:
        data = dict(_mapping("config", data))
        return _set(data) if "shapes" in data or data.get("_type") == SweepSet.__name__ else _sweep(data)
    except InputError as error:
        raise InputError(f"{path}: {error.name}", error.value, error.allowed) from None


def _set(data: dict[str, Any]) -> SweepSet:
    own = {name: data.pop(name) for name in ("_type", "_version", "shapes", "cells") if name in data}
    if "common" in data:  # the form that ``to_dict`` writes
        return _built(SweepSet, "config", own | data)
    crossbar = _mapping("crossbar", data.get("crossbar", {}))
    doubled = [name for name in ("rows", "cols", "cell") if name in crossbar]
    if doubled:
        raise InputError(
            f"crossbar.{doubled[0]}", crossbar[doubled[0]], "the set's shapes and cells give it; leave it out"
        )
    if "preset" not in data:
        data["crossbar"] = {"rows": 1, "cols": 1, **crossbar}
    return _built(SweepSet, "config", own | {"common": _sweep(data)})


class YamlLoader(yaml.SafeLoader):
    """A loader of YAML 1.1 that reads 100e3 and inf as numbers, not as strings."""


def _mapping_of(loader: Any, node: Any) -> dict[Any, Any]:
    """A mapping whose keys all differ: YAML's own would take the last of equal keys without a word."""
    loader.flatten_mapping(node)
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in found and key_node.value != "<<":
            raise yaml.YAMLError(
                f"the key {key!r} is given twice, the second time in line {key_node.start_mark.line + 1}"
            )
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def _float(loader: Any, node: Any) -> float:
    return float("inf") if node.value == "inf" else loader.construct_yaml_float(node)


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
YamlLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"inf$"), ["i"])
YamlLoader.add_constructor("tag:yaml.org,2002:float", _float)
YamlLoader.add_constructor("tag:yaml.org,2002:map", _mapping_of)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file of settings.

    Raises:
        InputError: the file is not YAML.
        OSError: the file cannot be read.
    """
    try:
        return yaml.load(path.read_bytes(), Loader=YamlLoader)
    except OSError:
        raise
    except Exception as error:  # yaml also passes on the errors of the number and date constructors
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError("config", path, f"it cannot be read as YAML: {why}") from None


def _sweep(data: dict[str, Any]) -> SweepConfig:
    if data.get("circuits") is not None and "_type" not in data:  # ``to_dict`` writes placeholders too
        data = _spanning(data)
    if "preset" in data:
        data = _from_preset(data.pop("preset"), data)
    for name, kind in _NESTED.items():
        if data.get(name) is not None and not isinstance(data[name], kind):
            data[name] = _built(kind, name, data[name])
    return _built(SweepConfig, "config", data)


def _spanning(data: dict[str, Any]) -> dict[str, Any]:
    """``data`` with placeholders for the fields that the tiles draw; it is an error to give such a field."""
    crossbar = _mapping("crossbar", data.get("crossbar", {}))
    scalars = {f"crossbar.{name}": crossbar[name] for name in crossbar if name.startswith("r_")}
    drawn = ("preset", *_PLACEHOLDERS, "slice_bits", "stream_bits")
    fixed = {name: data[name] for name in drawn if name in data} | scalars
    for name, value in fixed.items():
        raise InputError(name, value, "each tile draws its own value from circuits; leave it out")
    return data | _PLACEHOLDERS


def _from_preset(name: Any, data: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(name, str) or name not in presets:
        raise InputError("preset", repr(name), f"the presets are {', '.join(presets)}")
    preset = presets[name]
    circuit = {"crossbar": preset.crossbar, "window": preset.window, "v_max": preset.v_max}
    doubled = sorted(set(circuit) & set(data))
    if doubled:
        raise InputError(doubled[0], "a value beside preset", "give either preset, or crossbar, window and v_max")
    return circuit | data


def _built(kind: type[_C], name: str, data: Any) -> _C:
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    required = {f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(_mapping(name, data)))
    if missing:
        raise InputError(f"{name}.{missing[0]}", "no value", "this field has no default, so it must be given")
    return kind.from_dict(data)


def _mapping(name: str, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(name, repr(data), "it must be a mapping of field names to values")
    return data
