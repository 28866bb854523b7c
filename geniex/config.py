"""Frozen configuration dataclasses that round-trip through plain dictionaries (JSON, YAML)."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import operator
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Self, TypeVar

from geniex.errors import InputError, UnitWarning

_SHIPPED = {
    "LinearCell": "geniex.cells.linear",
    "Level1Mosfet": "geniex.cells.mosfet",
    "OneTransistorOneResistor": "geniex.cells.series",
    "SinhCell": "geniex.cells.sinh",
    "TabulatedCell": "geniex.cells.tabulated",
    "Crossbar": "geniex.circuit.crossbar",
    "Architecture": "geniex.mapping.architecture",
    "ConductanceWindow": "geniex.mapping.window",
    "Remapping": "geniex.mitigation.remap.remap",
    "FitConfig": "geniex.networks.train",
    "Preset": "geniex.preset",
    "EmulatorCheck": "geniex.study.grid.groups",
    "FineTuning": "geniex.study.grid.groups",
    "Pruning": "geniex.study.grid.groups",
    "PointSettings": "geniex.study.grid.settings",
    "Scalers": "geniex.surrogate.mlp.scalers",
    "TrainConfig": "geniex.surrogate.mlp.train",
    "CircuitRanges": "geniex.sweep.circuits",
    "SweepConfig": "geniex.sweep.config",
    "SweepSet": "geniex.sweep.sets",
    "SampleMix": "geniex.sweep.strategies",
    "LogLine": "geniex.variation.aging",
    "Drift": "geniex.variation.aging",
    "Retention": "geniex.variation.aging",
    "Variations": "geniex.variation.base",
    "StuckCells": "geniex.variation.faults",
    "StuckLines": "geniex.variation.faults",
    "ReadNoise": "geniex.variation.noise",
    "VariationPreset": "geniex.variation.preset",
    "FiniteStates": "geniex.variation.write_error",
    "ProgrammingError": "geniex.variation.write_error",
    "ConductanceSpread": "geniex.variation.spread",
    "RangeSpread": "geniex.variation.spread",
    "LevelSpread": "geniex.variation.spread",
}
"""The module of each configuration class of geniex, by class name; ``_type`` in a file may give these names."""
_registered: dict[str, type[Config]] = {}
"""Classes that users registered, by class name."""


class Config:
    """The base of all configurations; subclass it with ``@dataclass(frozen=True)``.

    ``to_dict`` writes the fields plus ``_type`` and ``_version``. ``Config.from_dict`` finds the class by
    ``_type`` and builds the configuration again, so a file says by itself what it holds. Unknown fields are errors.

    The classes of geniex are found by a fixed list of names, whatever was imported before. A class of your own,
    such as a cell, is found once it is registered, see ``register_config``.
    """

    config_version: ClassVar[int] = 1

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values that standard JSON holds; an infinite number is the string "inf".

        Raises:
            InputError: the class is yours but has the name of a geniex class, so that a file could not tell them apart.
        """
        name = type(self).__name__
        if name in _SHIPPED and type(self).__module__ != _SHIPPED[name]:
            raise _taken(type(self))
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        out: dict[str, Any] = {"_type": name, "_version": self.config_version}
        return out | {f.name: _plain(getattr(self, f.name)) for f in fields}

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, register: Iterable[type[Config]] = ()) -> Self:
        """The configuration that ``to_dict`` wrote.

        Args:
            data: the fields by name, with ``_type`` unless this very class is meant.
            register: classes of your own that ``_type`` may name in ``data``, beside those of ``register_config``.

        Raises:
            InputError: the dictionary is foreign or of another version, or a class in ``register`` has the name of
                another class.
        """
        own = dict(_registered)
        for kind in register:
            _register(kind, own)
        return _built(cls, data, own)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; it is validated again."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


_C = TypeVar("_C", bound=Config)


def register_config(kind: type[_C]) -> type[_C]:
    """Register ``kind``, a class of your own, so that files may name it in this process; a decorator that returns it.

    Put the decorator where the class is defined, in a module. Sweep files, checkpoints, converted models and YAML
    files that contain the class then load wherever that module was imported. Worker processes register what their
    parent has registered; ``geniex --import MODULE VERB ...`` imports a module of yours before a verb of the shell
    runs.

    >>> from dataclasses import dataclass
    >>> @register_config
    ... @dataclass(frozen=True)
    ... class Guard(Config):
    ...     rings: int = 1
    >>> Config.from_dict({"_type": "Guard", "rings": 2})
    Guard(rings=2)

    Raises:
        InputError: geniex or another registered class has that name.
    """
    _register(kind, _registered)
    return kind


def registered_configs() -> tuple[tuple[str, str], ...]:
    """The module and the name of each class that users registered, for handing them to a worker process."""
    return tuple((kind.__module__, kind.__qualname__) for kind in _registered.values())


def register_configs(names: Iterable[tuple[str, str]]) -> None:
    """Register the classes that another process handed over with ``registered_configs``.

    A class that cannot be imported here is left out: a file that needs it says so.
    """
    for module, name in names:
        with suppress(Exception):  # what importing a module of a user's raises is its own affair
            register_config(operator.attrgetter(name)(importlib.import_module(module)))


def _register(kind: type[Config], into: dict[str, type[Config]]) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Config) and dataclasses.is_dataclass(kind)):
        raise InputError("register", repr(kind), "it must be a dataclass that derives from Config, such as a Cell")
    name = kind.__name__
    if name in _SHIPPED:
        if kind.__module__ != _SHIPPED[name]:
            raise _taken(kind)
        return
    other = into.get(name, kind)
    # A class of the same name in the same module is the same class defined again, as when a notebook input runs twice.
    if (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
        raise InputError(
            "register", _where(kind), f"{_where(other)} is already registered under that name: rename one of the two"
        )
    into[name] = kind


def _taken(kind: type[Config]) -> InputError:
    name = kind.__name__
    allowed = f"files would take it for geniex' own {_SHIPPED[name]}.{name}: give your class another name"
    return InputError("register", _where(kind), allowed)


def _where(kind: type[Config]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _built(cls: type[_C], data: Any, own: Mapping[str, type[Config]]) -> _C:
    """The configuration that ``data`` describes, of ``cls`` or a subclass, which is of geniex or among ``own``."""
    if not isinstance(data, dict):
        raise InputError(cls.__name__, repr(data), "it must be a mapping of field names to values")
    target = _target(cls, data, own)
    kind, version = target.__name__, data.get("_version", target.config_version)
    if version != target.config_version:
        raise InputError("_version", version, f"this version of geniex reads version {target.config_version} of {kind}")
    specs = {f.name: f for f in dataclasses.fields(target)}  # type: ignore[arg-type]
    fields = {k: v for k, v in data.items() if k not in ("_type", "_version")}
    for name in fields:
        if name not in specs:
            raise InputError(f"{kind}.{name}", "an unknown field", f"the fields are {', '.join(sorted(specs))}")
    missing = dataclasses.MISSING
    for name, f in specs.items():
        if f.default is missing and f.default_factory is missing and name not in fields:
            raise InputError(f"{kind}.{name}", "no value", "this field has no default, so it must be given")
    return target(**{name: _rebuilt(value, specs[name], own) for name, value in fields.items()})


def _target(cls: type[_C], data: dict[Any, Any], own: Mapping[str, type[Config]]) -> type[_C]:
    """The class that ``data`` names, or ``cls`` where ``data`` names none."""
    name = data.get("_type", cls.__name__)
    if not isinstance(name, str):
        target = None
    elif "_type" in data and name in _SHIPPED:
        target = _shipped(name)
    else:
        target = own.get(name, cls if name == cls.__name__ else None)
    if (
        target is None
        or not issubclass(target, cls)
        or not dataclasses.is_dataclass(target)
        or inspect.isabstract(target)
    ):
        got = repr(name) if "_type" in data else "nothing"
        raise InputError("_type", got, f"it must be one of {', '.join(_known(cls, own))}; {_HOW_TO_REGISTER}")
    return target


_HOW_TO_REGISTER = "a class of your own must be registered first, see geniex.config.register_config"


def _shipped(name: str) -> type[Config]:
    return getattr(importlib.import_module(_SHIPPED[name]), name)


def _known(cls: type[Config], own: Mapping[str, type[Config]]) -> list[str]:
    """The names of ``cls`` and its subclasses that a file may give; this imports only the package of ``cls``."""
    room = ".".join(cls.__module__.split(".")[:2])
    if cls is Config:
        shipped = list(_SHIPPED)
    else:
        near = [name for name, module in _SHIPPED.items() if f"{module}.".startswith(f"{room}.")]
        shipped = [name for name in near if issubclass(_shipped(name), cls)]
    return sorted({*shipped, *(name for name, kind in own.items() if issubclass(kind, cls))})


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _rebuilt(value: Any, field: dataclasses.Field[Any], own: Mapping[str, type[Config]]) -> Any:
    if isinstance(value, dict) and "_type" in value:
        return _built(Config, value, own)
    if isinstance(value, list):
        return tuple(_rebuilt(v, field, own) for v in value)
    if value in ("inf", "-inf") and "float" in str(field.type):
        return float(value)
    return value


def check_positive_int(name: str, value: object, maximum: int | None = None) -> None:
    """Raise ``InputError`` unless ``value`` is an int >= 1 (and <= ``maximum``)."""
    bound = "" if maximum is None else f" and at most {maximum}"
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value > (maximum or value):
        raise InputError(name, repr(value), f"it must be a whole number, at least 1{bound}")


def check_seed(value: object) -> None:
    """Raise ``InputError`` unless ``value`` is an int >= 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError("seed", repr(value), "it must be a whole number, at least 0")


def check_number(
    name: str,
    value: object,
    *,
    low: float,
    high: float = math.inf,
    unit: str = "",
    open_low: bool = False,
    infinite: bool = False,
) -> None:
    """Raise ``InputError`` unless ``value`` is a finite real number from ``low`` to ``high``.

    With ``open_low``, ``low`` itself is not allowed; ``infinite`` also allows positive infinity.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    good = number and (math.isfinite(value) or (infinite and value == math.inf))  # type: ignore[arg-type]
    if not good or not low <= value <= high or (open_low and value == low):  # type: ignore[operator]
        sign, bound = "greater than" if open_low else "at least", "" if high == math.inf else f" and at most {high:g}"
        allowed = f"it must be a finite number {sign} {low:g}{bound} {unit}".rstrip()
        raise InputError(name, repr(value), f"{allowed}, or infinite (.inf in YAML)" if infinite else allowed)


def warn_unit(name: str, value: float, unit: str, doubt: str) -> None:
    """Warn that ``value``, in ``unit``, is unusual; ``doubt`` says what it may be instead.

    Python shows the same text once, as it does for all warnings from one line.
    """
    warnings.warn(f"{name}: got {value:g} {unit}; {doubt}", UnitWarning, stacklevel=2)
