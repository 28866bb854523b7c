"""The settings of one grid point of a study, built from dotted names and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from geniex.cells import Cell
from geniex.circuit import Crossbar
from geniex.config import Config, check_positive_int, check_seed
from geniex.errors import InputError
from geniex.mapping import Architecture, ConductanceWindow, Layout, check_layout
from geniex.mitigation import REMAPPINGS
from geniex.networks import IMAGE_SETS
from geniex.preset import Preset, presets
from geniex.study.grid.fields import STEPS, Flat
from geniex.study.grid.groups import EmulatorCheck, FineTuning, Pruning, read_pair, read_words
from geniex.variation import ReadNoise, Variation, Variations, variation_presets

AFTERWARDS = ("fine_tuning", "gain", "batch_norm")
"""Mitigations other than remappings: training steps on the crossbars, and corrections that are fitted to them."""
_DEFAULTS: Flat = {
    "network": "fashion-cnn",
    "data": "fashion-mnist",
    "images": 1000,
    "first_images": None,
    "calibration_images": 128,
    "calibration_start": 0,
    "remapping_images": None,
    "preset": "geniex-64",
    "tile": None,
    "v_max": None,
    "emulator": "physics-fast",
    "layout": "block_diagonal",
    "fold": False,
    "mitigation": "none",
    "circuit_positions": 0,
    "seed": 0,
    "draws": 1,
    "energy": "emulator",
}
Energy = Literal["emulator", "ideal"]


@dataclass(frozen=True, kw_only=True)
class PointSettings(Config):
    """All settings of one grid point of a study; ``of`` makes them from dotted names."""

    networks: tuple[str, ...]
    """Shipped names or checkpoint paths of networks: several trainings of one architecture repeat a grid point."""
    data: str
    images: int | None
    """Number of test images, drawn with the seed; None takes all, in the order of the data set."""
    first_images: int | None
    """Number of these images to classify, from the first one; None classifies all of them."""
    calibration_images: int
    """Number of training images that choose the input ranges, rate remappings, and fit output gains and batch norms."""
    calibration_start: int
    """Place of the first of these images among the training images in the order of the seed."""
    remapping_images: int | None
    """Number of calibration images that rate remappings, from the first one; None takes all of them."""
    crossbar: Crossbar
    architecture: Architecture
    emulator: str
    """Emulator: "ideal", "linear", "circuit", or the name or path of a surrogate."""
    layout: Layout
    fold: bool
    """Whether batch norms are folded into the convolutions before them."""
    variations: Variations | None
    """Variations of the devices; None for none."""
    mitigation: tuple[str, ...]
    """Mitigations: at most one remapping, then any of ``AFTERWARDS``."""
    fine_tuning: FineTuning
    """Settings of the mitigation "fine_tuning"."""
    check: EmulatorCheck | None
    """EmulatorCheck of the accuracy by another emulator; None for none."""
    circuit_positions: int
    """Sampled inputs of each layer of the first network for which the exact circuit checks the layers' output errors;
    0 for no check."""
    prune: Pruning | None
    seed: int
    """Seed of the choice of images and of all draws."""
    draws: int
    """Draws of the devices; 1 without variations."""
    energy: Energy
    """Circuit of the static energy: the emulator's, for which arrays are solved, or the one without wires ("ideal")."""

    @classmethod
    def of(cls, flat: Flat) -> PointSettings:
        """The settings of a grid point from ``flat``, which ``flatten`` gives; missing settings take their defaults.

        Raises:
            InputError: a value is not allowed, or two values contradict each other.
        """
        told = _DEFAULTS | flat
        preset = _preset(told)
        crossbar = _crossbar(told, preset)
        window, v_max = _window(told, preset), preset.v_max if told["v_max"] is None else told["v_max"]
        digital = _members(told, "architecture")
        variations = _variations(told)
        _check_counts(told)
        check_seed(told["seed"])
        check_layout(told["layout"])
        if told["energy"] not in get_args(Energy):
            raise InputError("energy", repr(told["energy"]), f"it must be one of {', '.join(get_args(Energy))}")
        if told["data"] not in IMAGE_SETS:
            raise InputError("data", repr(told["data"]), f"it must be one of {', '.join(IMAGE_SETS)}")
        for name, kind in (("fold", bool), ("emulator", str)):
            if not isinstance(told[name], kind):
                raise InputError(name, repr(told[name]), f"it must be a {kind.__name__}")
        mitigation = _mitigation(told["mitigation"])
        _check_circuit(told["circuit_positions"], mitigation, variations)
        return cls(
            networks=read_words("network", told["network"], least=1),
            data=told["data"],
            images=told["images"],
            first_images=told["first_images"],
            calibration_images=told["calibration_images"],
            calibration_start=told["calibration_start"],
            remapping_images=told["remapping_images"],
            crossbar=crossbar,
            architecture=_named(
                "architecture",
                Architecture,
                tile=(crossbar.rows, crossbar.cols),
                window=window,
                v_max=v_max,
                **_tuples(digital),
            ),
            emulator=told["emulator"],
            layout=cast(Layout, told["layout"]),
            fold=told["fold"],
            variations=variations,
            mitigation=mitigation,
            fine_tuning=FineTuning(**_tuples(_members(told, "fine_tuning"))),
            check=_check(told),
            circuit_positions=told["circuit_positions"],
            prune=_pruning(told),
            seed=told["seed"],
            draws=told["draws"] if variations is not None else 1,
            energy=told["energy"],
        )

    @property
    def remapping(self) -> str:
        """The remapping among the mitigations, or "none"."""
        return next((name for name in self.mitigation if name not in AFTERWARDS), "none")

    @property
    def unmitigated(self) -> PointSettings:
        """The settings without mitigation, and without those on which the accuracy of single images does not depend.

        Points that differ only in mitigation, networks or the number of images have the same ones.
        """
        return self.replace(
            networks=("",),
            images=None if self.images is None else 1,
            first_images=None,
            remapping_images=None,
            mitigation=(),
            fine_tuning=FineTuning(),
            check=None,
            circuit_positions=0,
            draws=1,
            energy="ideal",
        )

    def in_force(self, name: str) -> Any:
        """The value of a setting at this grid point, with presets and defaults resolved; None if it does not apply."""
        group, _, member = name.rpartition(".")
        if group == "crossbar":
            found = getattr(self.crossbar, member)
            return type(found).__name__ if member == "cell" else found
        if group == "crossbar.cell":
            return getattr(self.crossbar.cell, member, None)
        if group in ("window", "architecture"):
            return getattr(self.architecture if group == "architecture" else self.architecture.window, member)
        if group in ("prune", "check"):
            found = getattr(self, group)
            return None if found is None else getattr(found, member)
        if group == "fine_tuning":
            return getattr(self.fine_tuning, member) if "fine_tuning" in self.mitigation else None
        if group.startswith("variation"):
            return self._of_variation(name.removeprefix("variation."))
        if name == "tile":
            return _square(self.architecture.tile)
        if name == "v_max":
            return self.architecture.v_max
        if name == "network":
            return self.networks
        if name in ("variation", "preset", "crossbar", "window", "architecture", "fine_tuning", "check"):
            return None
        return getattr(self, name)

    def _of_variation(self, name: str) -> Any:
        step, _, member = name.partition(".")
        given = [] if self.variations is None else [*self.variations.steps, self.variations.read_noise]
        found = next((x for x in given if x is not None and isinstance(x, STEPS[step])), None)
        return None if found is None else getattr(found, member) if member else step


def list_mitigations() -> tuple[str, ...]:
    """All names that ``mitigation`` may list."""
    return (*REMAPPINGS, *AFTERWARDS)


def _check_counts(told: Flat) -> None:
    for name in ("images", "first_images", "calibration_images", "remapping_images", "draws"):
        if name in ("calibration_images", "draws") or told[name] is not None:
            check_positive_int(name, told[name])
    for name in ("calibration_start", "circuit_positions"):
        if isinstance(told[name], bool) or not isinstance(told[name], int) or told[name] < 0:
            raise InputError(name, repr(told[name]), "it must be a whole number, 0 or above")
    for name, whole in (("first_images", "images"), ("remapping_images", "calibration_images")):
        if told[name] is not None and told[whole] is not None and told[name] > told[whole]:
            raise InputError(name, told[name], f"it must be at most {whole} ({told[whole]})")


def _check_circuit(positions: int, mitigation: tuple[str, ...], variations: Variations | None) -> None:
    """Raise ``InputError`` for a circuit check where more than the places of the outputs changes the layers' errors."""
    others = [name for name in mitigation if name in AFTERWARDS] + (["variation"] if variations is not None else [])
    if positions and others:
        allowed = f"the exact circuit checks remappings only: set it to 0 in a part with {', '.join(others)}"
        raise InputError("circuit_positions", positions, allowed)


def _check(told: Flat) -> EmulatorCheck | None:
    whole, given = told.get("check"), _members(told, "check")
    if whole not in (None, "none"):
        given = {"emulator": whole}
    if given.get("emulator") in (None, "none"):
        for name in () if "emulator" in given else given:
            raise InputError(f"check.{name}", repr(given[name]), "it needs check.emulator")
        return None
    return EmulatorCheck(**given)


def _preset(told: Flat) -> Preset:
    if told["preset"] not in presets:
        raise InputError("preset", repr(told["preset"]), f"presets are {', '.join(presets)}")
    return presets[told["preset"]]


def _members(told: Flat, group: str) -> Flat:
    """The settings of ``group`` by their own names, without the settings of groups inside it."""
    named = ((name.rpartition("."), value) for name, value in told.items())
    return {member: value for (above, _, member), value in named if above == group}


def _crossbar(told: Flat, preset: Preset) -> Crossbar:
    given = _members(told, "crossbar")
    if told["tile"] is not None:
        for name in ("rows", "cols"):
            if name in given:
                raise InputError("tile", repr(told["tile"]), f"it contradicts crossbar.{name}: give only one of them")
        given["rows"], given["cols"] = read_pair("tile", told["tile"])
    if "r_wire" in given:  # a preset's own row and column resistances would override it
        given = {"r_wire_row": None, "r_wire_col": None} | given
    cell = _cell(given.pop("cell", None), _members(told, "crossbar.cell"), preset.crossbar.cell)
    return _named("crossbar", preset.crossbar.replace, cell=cell, **given)


def _cell(given: Any, fields: Flat, before: Cell) -> Cell:
    if isinstance(given, Cell):
        return given
    if given is not None:
        fields = {"_type": given}
    if "_type" in fields:
        cell = _named("crossbar.cell", Cell.from_dict, fields)
        assert isinstance(cell, Cell)
        return cell
    known = [f.name for f in dataclasses.fields(before)]  # type: ignore[arg-type]
    for name in fields:
        if name not in known:
            allowed = f"a {type(before).__name__} has the fields {', '.join(known)}; give _type for another cell"
            raise InputError(f"crossbar.cell.{name}", "an unknown field", allowed)
    return _named("crossbar.cell", before.replace, **fields)


def _window(told: Flat, preset: Preset) -> ConductanceWindow:
    return _named("window", preset.window.replace, **_members(told, "window"))


def _variations(told: Flat) -> Variations | None:
    whole = told.get("variation")
    if isinstance(whole, str) and whole != "none":
        if whole not in variation_presets:
            raise InputError("variation", repr(whole), f"presets are {', '.join(variation_presets)}")
        return variation_presets[whole].variations
    if whole not in (None, "none"):
        raise InputError("variation", repr(whole), "it must be a preset, a mapping of steps, or null")
    made = {name: _step(told, name) for name in STEPS}
    noise = cast(ReadNoise | None, made.pop("read_noise"))
    steps = tuple(cast(Variation, step) for step in made.values() if step is not None)
    return Variations(steps, noise) if steps or noise is not None else None


def _step(told: Flat, name: str) -> Config | None:
    group = f"variation.{name}"
    if told.get(group) is not None:
        raise InputError(group, repr(told[group]), "it must be a mapping of its fields, or null")
    given = _members(told, group)
    if not given or all(value is None for value in given.values()):
        return None
    return _named(group, STEPS[name].from_dict, _tuples(given))


def _pruning(told: Flat) -> Pruning | None:
    whole, given = told.get("prune"), _members(told, "prune")
    if whole not in (None, "none"):
        given = {"method": whole}
    if given.get("method") in (None, "none"):
        for name in () if "method" in given else given:
            raise InputError(f"prune.{name}", repr(given[name]), "it needs prune.method")
        return None
    return Pruning(**_tuples(given))


def _mitigation(given: Any) -> tuple[str, ...]:
    words = [given] if isinstance(given, str) or given is None else given
    if not isinstance(words, Sequence):
        raise InputError("mitigation", repr(given), "it must be a name, or a list of names")
    names = [part.strip() for word in words for part in ("none" if word is None else str(word)).split("+")]
    for name in names:
        if name not in list_mitigations():
            raise InputError("mitigation", repr(name), f"it must be one of {', '.join(list_mitigations())}")
    maps = [name for name in names if name not in (*AFTERWARDS, "none")]
    if len(maps) > 1:
        raise InputError("mitigation", repr(given), "it may hold at most one remapping")
    return (*maps, *(name for name in AFTERWARDS if name in names))


def _named(group: str, make: Any, *args: Any, **fields: Any) -> Any:
    """The result of ``make``; its errors name the field by the study's dotted name."""
    try:
        return make(*args, **fields)
    except InputError as error:
        name = error.name.rpartition(".")[2]
        raise InputError(name if name == "v_max" else f"{group}.{name}", error.value, error.allowed) from None


def _square(tile: tuple[int, int]) -> int | str:
    return tile[0] if tile[0] == tile[1] else f"{tile[0]}x{tile[1]}"


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
