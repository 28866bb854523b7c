"""Exceptions for single layers: another architecture, another layout, or none."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, Layout, check_layout, checked_size
from geniex.simulator.ranges import FullScale, check_full_scale


@dataclass(frozen=True, kw_only=True)
class LayerRule:
    """What differs for a layer; what is None is as for all others."""

    architecture: Architecture | None = None
    layout: Layout | None = None
    map_size: tuple[int, ...] | None = None
    """Spatial size of the input maps of a convolution in the layout "sparse"; None takes it from the calibration."""
    weight_full_scale: FullScale | None = None
    """The magnitude that the highest conductances stand for, or, with the architecture's ``weight_scale`` "channel",
    one for each output; None takes the largest of the weights there are. Weights beyond clip. Give that of before where
    training has cut weights (WCT, see ``geniex.mitigation.weight_cut``), or they are spread over the window again."""

    def __post_init__(self) -> None:
        if self.architecture is not None and not isinstance(self.architecture, Architecture):
            raise InputError("LayerRule.architecture", repr(self.architecture), "it must be an Architecture")
        if self.layout is not None:
            check_layout(self.layout)
        if self.map_size is not None:
            sizes = tuple(self.map_size) if isinstance(self.map_size, (tuple, list)) else (self.map_size,)
            object.__setattr__(self, "map_size", checked_size(sizes, len(sizes)))
        if self.weight_full_scale is not None:
            given = self.weight_full_scale
            object.__setattr__(self, "weight_full_scale", tuple(given) if isinstance(given, list) else given)
            check_full_scale(self.weight_full_scale, "LayerRule.weight_full_scale")


PerLayer = Mapping[str, Architecture | LayerRule | None]
"""Layer names or patterns: an architecture, a ``LayerRule``, or None to keep it digital."""


@dataclass(frozen=True)
class Choice:
    """What the rules say about one layer."""

    architecture: Architecture | None
    """None keeps it digital."""
    layout: Layout
    map_size: tuple[int, ...] | None
    pattern: str | None
    """The rule that decided; None where none did."""
    weight_full_scale: FullScale | None = None


class Rules:
    """Which architecture and layout a layer gets; remembers the patterns that matched nothing.

    The layer's exact name beats that of a module around it, the nearer module's the farther one's, any name a
    pattern, and a later pattern an earlier one. Without an ``architecture`` only what rules name leaves the digital.
    """

    def __init__(self, architecture: Architecture | None, layout: Layout, per_layer: PerLayer | None) -> None:
        check_layout(layout)
        self.default = LayerRule(architecture=architecture, layout=layout)
        self.rules = {name: _checked(name, rule) for name, rule in (per_layer or {}).items()}
        self._unused = set(self.rules)

    def choice(self, name: str) -> Choice:
        """What holds for the module ``name``."""
        parts = name.split(".")
        around = [".".join(parts[:k]) for k in range(len(parts), 0, -1)]
        for module in around:
            if module in self.rules:
                return self._by(module)
        for pattern in reversed(self.rules):
            if any(fnmatch.fnmatchcase(module, pattern) for module in around):
                return self._by(pattern)
        return self._merged(LayerRule(), None)

    def check_all_used(self) -> None:
        """Raise ``ConversionError`` for a rule that decided nothing."""
        if self._unused:
            raise ConversionError(f"per_layer: {sorted(self._unused)[0]!r} names no layer with parameters")

    def _by(self, pattern: str) -> Choice:
        self._unused.discard(pattern)
        return self._merged(self.rules[pattern], pattern)

    def _merged(self, rule: LayerRule | None, pattern: str | None) -> Choice:
        layout = (rule.layout if rule else None) or self.default.layout
        assert layout is not None
        size = rule.map_size if rule else None
        architecture = (rule.architecture or self.default.architecture) if rule else None
        return Choice(architecture, layout, size, pattern, rule.weight_full_scale if rule else None)


def _checked(name: str, rule: object) -> LayerRule | None:
    if rule is None or isinstance(rule, LayerRule):
        return rule
    if isinstance(rule, Architecture):
        return LayerRule(architecture=rule)
    raise InputError(f"per_layer[{name!r}]", repr(rule), "it must be an Architecture, a LayerRule or None (digital)")
