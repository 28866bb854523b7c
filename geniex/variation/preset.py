"""Presets of variations with their sources: ``variation_presets["pcm-1-day"]``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from geniex.config import Config
from geniex.variation.aging import Drift, LogLine
from geniex.variation.base import Variations
from geniex.variation.faults import StuckCells
from geniex.variation.noise import ReadNoise
from geniex.variation.spread import RangeSpread
from geniex.variation.write_error import ProgrammingError


@dataclass(frozen=True)
class VariationPreset(Config):
    """Variations, and where their figures come from."""

    variations: Variations
    """Variations of the cells."""
    source: str
    """Publication of the figures, and which of them are our choice."""


_PCM = (
    "Programming noise fitted to 1 million phase-change devices, -1.1731 x^2 + 1.9650 x + 0.2635 uS at G_on = 25 uS,"
    " x = g / G_on (Joshi et al., Nature Communications 11, 2473, 2020); drift from t0 = 20 s with a mean exponent of"
    " -0.0155 ln x + 0.0244 within 0.049..0.1 and a spread of -0.0125 ln x - 0.0059 within 0.008..0.045; 1/f read noise"
    " of 0.0088 sqrt(ln((t + 250 ns) / 500 ns)) (Nandakumar et al., ICECS 2019; all as in IBM's aihwkit). Our choices:"
    " errors scale with the window's G_on; the exponent depends on the written conductance, not on the target;"
    " read noise is drawn at each read and, for all states, is that of G_on, which is the lowest."
)
_STUCK = (
    "1.75 % of cells stuck at 0 and 9.04 % at 1, as measured on a 4-Mbit HfO2 array (C.-Y. Chen et al., RRAM Defect"
    " Modeling and Failure Analysis Based on March Test and a Novel Compact-Search Scheme, IEEE Transactions on"
    " Computers 64, 2015). Our choices: 1 is taken to be G_on, on which papers that cite these"
    " figures differ; faults are independent."
)
_RANGE = (
    "Our choice, measured on no device: round figures by which R_off spreads more than R_on, as in filamentary RRAM."
)


def pcm(seconds: float) -> Variations:
    """Variations of phase-change memory ``seconds`` (at least 20) after programming.

    ``variation_presets["pcm-1-day"].source`` names their source.
    """
    programming = ProgrammingError(tuple(c / 25.0 for c in (0.26348, 1.9650, -1.1731)))
    drift = Drift(
        seconds,
        nu=LogLine(0.0244, -0.0155, 0.049, 0.1),
        spread=LogLine(-0.0059, -0.0125, 0.008, 0.045),
        t0=20.0,
    )
    flicker = 0.0088 * math.sqrt(math.log((seconds + 250e-9) / 500e-9))
    return Variations((programming, drift), ReadNoise(relative=flicker))


variation_presets: dict[str, VariationPreset] = {
    "pcm-20-s": VariationPreset(pcm(20.0), _PCM),
    "pcm-1-day": VariationPreset(pcm(86400.0), _PCM),
    "rram-stuck": VariationPreset(Variations((StuckCells(off=0.0175, on=0.0904),)), _STUCK),
    "rram-range": VariationPreset(Variations((RangeSpread(sigma_on=0.1, sigma_off=0.3),)), _RANGE),
}
"""Presets by name; the source of each says which figures are published and which are ours."""
