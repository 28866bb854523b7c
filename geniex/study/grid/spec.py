"""The specification of a study, from YAML: axes in all combinations or in step, for each part."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geniex.errors import InputError
from geniex.study.configs import find_study
from geniex.study.grid.fields import Flat, check_name, flatten, make_unknown_error, override
from geniex.study.grid.groups import read_words
from geniex.sweep.loading import read_yaml

Label = str | int | float | bool
"""The name of an axis' value in tables."""
_OWN = ("title", "about", "grid", "zip", "parts", "baseline", "differences")
"""Keys of a study that are not settings."""
_OF_A_PART = ("name", "grid", "zip")


@dataclass(frozen=True)
class Axis:
    """One setting and the values that it takes, each with its label."""

    name: str
    labels: tuple[Label, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """One grid point: a combination of values."""

    part: str
    labels: dict[str, Label]
    """Labels on the axes that the part varies."""
    settings: Flat


@dataclass(frozen=True)
class Part:
    """A sub-grid: the product of its groups of axes; the axes of one group go in step."""

    name: str
    base: Flat
    groups: tuple[tuple[Axis, ...], ...]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes of the part, in the given order."""
        return tuple(axis for group in self.groups for axis in group)

    def points(self) -> Iterator[Point]:
        """Every combination; the last group varies fastest."""
        for places in itertools.product(*(range(len(group[0].values)) for group in self.groups)):
            labels, settings = dict[str, Label](), self.base
            for group, k in zip(self.groups, places, strict=True):
                for axis in group:
                    labels[axis.name] = axis.labels[k]
                    settings = override(settings, flatten({axis.name: axis.values[k]}))
            yield Point(self.name, labels, settings)


@dataclass(frozen=True)
class StudySpec:
    """The specification of a study, before its settings are built."""

    title: str
    about: str
    parts: tuple[Part, ...]
    baseline: dict[str, Label]
    """Labels, by axis, of the grid point that each one is compared with; empty for no comparison."""
    differences: tuple[str, ...]
    """Axes along which every two points of a part are compared."""
    asked: dict[str, Any] = field(repr=False)
    """Configuration as given, JSON-ready."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of all axes of all parts, in the given order."""
        return tuple(dict.fromkeys(axis.name for part in self.parts for axis in part.axes))

    def points(self) -> list[Point]:
        """All combinations of all parts."""
        return [point for part in self.parts for point in part.points()]

    @classmethod
    def of(
        cls, given: StudySpec | Mapping[str, Any] | str | Path, changes: Mapping[str, Any] | None = None
    ) -> StudySpec:
        """The specification from a mapping, the path of a YAML file, or the name of a shipped one.

        ``changes`` override settings of all parts. A ``StudySpec`` is returned as it is.

        Raises:
            InputError: the file is missing or no YAML; a field is unknown (the message lists the known ones); an axis
                has no values or is given twice; axes in step differ in length; or the baseline names an unknown axis
                or label.
        """
        if isinstance(given, StudySpec):
            return given
        if isinstance(given, Mapping):
            return _study(given, "study", changes or {})
        path = find_study(given)
        try:
            return _study(_mapping("config", read_yaml(path)), path.stem, changes or {})
        except InputError as error:
            raise InputError(f"{path.name}: {error.name}", error.value, error.allowed) from None


def _study(given: Mapping[str, Any], title: str, changes: Mapping[str, Any]) -> StudySpec:
    own = {name: given.get(name) for name in _OWN}
    base = _settings(given, _OWN)
    shared = _groups(own["grid"], own["zip"])
    parts = own["parts"] if own["parts"] is not None else [{}]
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise InputError("parts", repr(parts), "it must be a list of sub-grids, each a mapping")
    made = tuple(_part(_mapping(f"parts[{k}]", part), k, base, shared, changes) for k, part in enumerate(parts))
    names = [part.name for part in made]
    if len(set(names)) < len(names):
        raise InputError("parts", names, "each part needs a different name")
    spec = StudySpec(str(own["title"] or title), str(own["about"] or "").strip(), made, {}, (), _plain(given, changes))
    compared = _differences(own["differences"], spec)
    return dataclasses.replace(spec, baseline=_baseline(own["baseline"], spec), differences=compared)


def _part(
    given: Mapping[str, Any], k: int, base: Flat, shared: list[tuple[Axis, ...]], changes: Mapping[str, Any]
) -> Part:
    own = _settings(given, _OF_A_PART)
    groups = (*shared, *_groups(given.get("grid"), given.get("zip")))
    seen: set[str] = set()
    for axis in (axis for group in groups for axis in group):
        if axis.name in seen:
            raise InputError(axis.name, "an axis that occurs twice", "vary it in one place only")
        seen.add(axis.name)
    for name in seen:
        for other in seen:
            if name.startswith(f"{other}."):
                raise InputError(
                    name, f"a field within the axis {other}", "one would override the other: vary only one of them"
                )
    settings = override(override(base, own), flatten(changes))
    for name in seen.intersection(flatten(changes)):
        raise InputError(name, "an axis of this study", "a varied setting cannot be fixed too: remove one of them")
    return Part(str(given.get("name", f"part {k + 1}")), settings, groups)


def _settings(given: Mapping[str, Any], but: Sequence[str]) -> Flat:
    rest = {name: value for name, value in given.items() if name not in but}
    for name in rest:
        if isinstance(name, str) and "." not in name:
            try:
                check_name(name)
            except InputError as error:
                raise InputError(
                    error.name, error.value, f"{error.allowed}; a study also has {', '.join(but)}"
                ) from None
    return flatten(rest)


def _groups(grid: Any, zipped: Any) -> list[tuple[Axis, ...]]:
    """Groups of axes: one for each axis of ``grid``, then one for each set of axes in step."""
    out: list[tuple[Axis, ...]] = [(_axis(name, values),) for name, values in _mapping("grid", grid or {}).items()]
    for group in zipped if isinstance(zipped, list) else [zipped or {}]:
        axes = tuple(_axis(name, values) for name, values in _mapping("zip", group).items())
        lengths = {axis.name: len(axis.values) for axis in axes}
        if len(set(lengths.values())) > 1:
            raise InputError("zip", f"axes of {lengths} values", "axes in step need equally many values")
        out += [axes] if axes else []
    return out


def _axis(name: Any, given: Any) -> Axis:
    check_name(str(name))
    if isinstance(given, Mapping):
        labels, values = tuple(map(make_label, given)), tuple(given.values())
    elif isinstance(given, Sequence) and not isinstance(given, str):
        labels, values = tuple(map(make_label, given)), tuple(given)
    else:
        raise InputError(str(name), repr(given), "an axis must be a list of values or a mapping of labels to values")
    if not values:
        raise InputError(str(name), repr(given), "an axis needs at least one value")
    if len(set(labels)) < len(labels):
        raise InputError(
            str(name), list(labels), "each value needs a different label: give a mapping of labels to values"
        )
    for value in values:
        flatten({str(name): value})
    return Axis(str(name), labels, values)


def make_label(value: Any) -> Label:
    """The label of a value: the value itself if it is a number or a word."""
    if isinstance(value, str | int | float):
        return value
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {make_label(inner)}" for key, inner in value.items())
    if isinstance(value, Sequence):
        numbers = all(isinstance(inner, int) for inner in value)
        return ("x" if numbers else " + ").join(str(make_label(inner)) for inner in value)
    return str(value)


def _baseline(given: Any, spec: StudySpec) -> dict[str, Label]:
    told = {str(name): make_label(value) for name, value in _mapping("baseline", given or {}).items()}
    for name, label in told.items():
        if name not in spec.axes:
            raise make_unknown_error(f"baseline.{name}", name, spec.axes)
        known = {x for part in spec.parts for axis in part.axes if axis.name == name for x in axis.labels}
        if label not in known:
            raise InputError(f"baseline.{name}", repr(label), f"values are {', '.join(map(str, known))}")
    return told


def _differences(given: Any, spec: StudySpec) -> tuple[str, ...]:
    names = read_words("differences", given or ())
    for name in names:
        if name not in spec.axes:
            raise InputError("differences", repr(name), f"axes are {', '.join(spec.axes)}")
    return names


def _mapping(name: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise InputError(name, repr(value), "it must be a mapping")
    return value


def _plain(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    out = plain(given)
    return out | ({"set": plain(changes)} if changes else {})
