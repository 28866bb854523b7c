"""Rules for single layers: another architecture, another layout, or no crossbars."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, Layout, check_layout, check_size
from geniex.simulator.scales import FullScale, check_full_scale


@dataclass(frozen=True, kw_only=True)
class LayerRule:
    """The settings in which a layer differs; a setting that is None is that of all other layers."""

    architecture: Architecture | None = None
    layout: Layout | None = None
    map_size: tuple[int, ...] | None = None
    """Spatial size of the input maps of a convolution in the layout "toeplitz"; None takes it from the calibration."""
    weight_full_scale: FullScale | None = None
    """Magnitude that the highest conductances stand for, or one for each output with the architecture's
    ``weight_scale`` "channel"; None takes the largest of the present weights. Larger weights clip. After
    weight-constrained training (WCT, see ``geniex.mitigation.weight_cut``) give the magnitude from before weights were
    cut, or they are spread over the whole window again."""

    def __post_init__(self) -> None:
        if self.architecture is not None and not isinstance(self.architecture, Architecture):
            raise InputError("LayerRule.architecture", repr(self.architecture), "it must be an Architecture")
        if self.layout is not None:
            check_layout(self.layout)
        if self.map_size is not None:
            sizes = tuple(self.map_size) if isinstance(self.map_size, (tuple, list)) else (self.map_size,)
            object.__setattr__(self, "map_size", check_size(sizes, len(sizes)))
        if self.weight_full_scale is not None:
            given = self.weight_full_scale
            object.__setattr__(self, "weight_full_scale", tuple(given) if isinstance(given, list) else given)
            check_full_scale(self.weight_full_scale, "LayerRule.weight_full_scale")


PerLayer = Mapping[str, Architecture | LayerRule | None]
"""Rules by layer name or pattern: an architecture, a ``LayerRule``, or None to keep the layer digital."""


@dataclass(frozen=True)
class Choice:
    """The decision of the rules about one layer."""

    architecture: Architecture | None
    """Architecture of the layer; None keeps it digital."""
    layout: Layout
    map_size: tuple[int, ...] | None
    pattern: str | None
    """Name or pattern of the rule that decided; None where no rule did."""
    weight_full_scale: FullScale | None = None


class Rules:
    """The architecture and layout of each layer; rules that have matched nothing are remembered.

    A rule with the layer's exact name comes before a rule with the name of a module around it, a nearer module before
    a farther one, any name before a pattern, and a later pattern before an earlier one. Without an ``architecture``,
    layers that no rule gives one stay digital.
    """

    def __init__(self, architecture: Architecture | None, layout: Layout, per_layer: PerLayer | None) -> None:
        self.default = LayerRule(architecture=architecture, layout=layout)
        self.rules = {name: _checked(name, rule) for name, rule in (per_layer or {}).items()}
        self._unused = set(self.rules)

    def choice(self, name: str) -> Choice:
        """The decision about the module ``name``."""
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
