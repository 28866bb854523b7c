"""Frozen configuration dataclasses that round-trip through plain dictionaries (JSON, YAML)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Self

from geniex.errors import InputError


class Config:
    """Base of all configurations: subclass it with ``@dataclass(frozen=True)``.

    ``to_dict`` writes the fields plus ``_type`` and ``_version``; ``Config.from_dict`` finds the class by
    ``_type`` and builds it again, so a file says by itself what it holds. Unknown fields are errors.
    """

    config_version: ClassVar[int] = 1
    _classes: ClassVar[dict[str, type[Config]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Config._classes[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-ready plain values."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        out: dict[str, Any] = {"_type": type(self).__name__, "_version": self.config_version}
        return out | {f.name: _plain(getattr(self, f.name)) for f in fields}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The configuration that ``to_dict`` wrote; raises ``InputError`` on a foreign or newer dictionary."""
        if not isinstance(data, dict):
            raise InputError(cls.__name__, repr(data), "a configuration is a mapping of its fields")
        kind = data.get("_type", cls.__name__)
        target = Config._classes.get(kind) if isinstance(kind, str) else None
        if target is None or not issubclass(target, cls):
            known = sorted(name for name, kind in Config._classes.items() if issubclass(kind, cls))
            raise InputError("_type", repr(kind), f"it must be one of {', '.join(known)}")
        version = data.get("_version", target.config_version)
        if version != target.config_version:
            raise InputError("_version", version, f"this geniex reads {kind} version {target.config_version}")
        specs = dataclasses.fields(target)  # type: ignore[arg-type]
        names = {f.name for f in specs}
        fields = {k: v for k, v in data.items() if k not in ("_type", "_version")}
        unknown = sorted(set(fields) - names)
        if unknown:
            raise InputError(f"{kind}.{unknown[0]}", "an unknown field", f"fields are {sorted(names)}")
        missing = dataclasses.MISSING
        needed = [f.name for f in specs if f.default is missing and f.default_factory is missing]
        for name in needed:
            if name not in fields:
                raise InputError(f"{kind}.{name}", "no value", "this field has no default")
        return target(**{k: _rebuilt(v) for k, v in fields.items()})

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _rebuilt(value: Any) -> Any:
    if isinstance(value, dict) and "_type" in value:
        return Config.from_dict(value)
    if isinstance(value, list):
        return tuple(_rebuilt(v) for v in value)
    return value


def check_positive_int(name: str, value: object, maximum: int | None = None) -> None:
    """Raise ``InputError`` unless ``value`` is an int >= 1 (and <= ``maximum``)."""
    bound = "" if maximum is None else f" and at most {maximum}"
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value > (maximum or value):
        raise InputError(name, repr(value), f"it must be a whole number of at least 1{bound}")


def check_seed(value: object) -> None:
    """Raise ``InputError`` unless ``value`` is an int >= 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError("seed", repr(value), "it must be a whole number of at least 0")


def check_number(name: str, value: object, *, low: float, unit: str = "", open_low: bool = False) -> None:
    """Raise ``InputError`` unless ``value`` is a finite real number >= ``low`` (> where ``open_low``)."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < low or (open_low and value == low):  # type: ignore[operator]
        sign = "greater than" if open_low else "at least"
        raise InputError(name, repr(value), f"it must be a finite number {sign} {low:g} {unit}".rstrip())
