"""Variations of programmed conductances: spread, programming error, faults, drift, read noise."""

from geniex.variation.aging import Drift, LogLine, Retention
from geniex.variation.base import Variation, Variations, vary_tiles
from geniex.variation.faults import StuckCells, StuckLines
from geniex.variation.noise import NoisyEmulator, ReadNoise
from geniex.variation.preset import VariationPreset, pcm, variation_presets
from geniex.variation.seeds import derive_seed
from geniex.variation.spread import ConductanceSpread, LevelSpread, RangeSpread
from geniex.variation.write_error import FiniteStates, ProgrammingError

__all__ = [
    "ConductanceSpread",
    "Drift",
    "FiniteStates",
    "LevelSpread",
    "LogLine",
    "NoisyEmulator",
    "ProgrammingError",
    "RangeSpread",
    "ReadNoise",
    "Retention",
    "StuckCells",
    "StuckLines",
    "Variation",
    "VariationPreset",
    "Variations",
    "derive_seed",
    "pcm",
    "variation_presets",
    "vary_tiles",
]
