"""Times of other simulators, measured before, that stand beside the figures of ``geniex bench inference``."""

from __future__ import annotations

from geniex.bench.additions import Elsewhere

_SOURCE = "measured by this project before, on one core; ratios to torch's float layer on the same machine"
_GENIEX = "GENIEx authors' functional simulator"
ELSEWHERE = (
    Elsewhere(_GENIEX, "ideal, 16-bit, 4/4, signed", 2.4, 2280, _SOURCE),
    Elsewhere(_GENIEX, "GENIEx network, 16-bit, 4/4, signed, 14-bit ADC", 17.8, 17200, _SOURCE),
    Elsewhere(_GENIEX, "ideal, 16-bit, 2/1, signed", 8.8, None, _SOURCE),
    Elsewhere("CrossSim 3.2", "no wires, 16-bit, 2/1", 0.21, 212, _SOURCE),
    Elsewhere("CrossSim 3.2", "with wires, 8-bit, 2/1", 97.0, 94000, _SOURCE),
)
"""Times of other simulators."""
