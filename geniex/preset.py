"""Named circuits with their sources, such as ``presets["geniex-64"]``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geniex.circuit import Crossbar
from geniex.config import Config
from geniex.errors import InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.mapping.window import check_drive


@dataclass(frozen=True)
class Preset(Config):
    """A crossbar with the conductance window and the drive at which it is used."""

    crossbar: Crossbar
    """The circuit."""
    window: ConductanceWindow
    """Conductance window of its cells."""
    v_max: float
    """Highest driver voltage, volt."""
    source: str
    """Source of the values."""

    def __post_init__(self) -> None:
        for name, kind in (("crossbar", Crossbar), ("window", ConductanceWindow)):
            if not isinstance(getattr(self, name), kind):
                raise InputError(name, repr(getattr(self, name)), f"it must be a {kind.__name__}")
        check_drive(self.v_max)

    def architecture(self, **overrides: Any) -> Architecture:
        """An ``Architecture`` with this crossbar's size as its tile, and with this window and drive."""
        fixed: dict[str, Any] = {
            "tile": (self.crossbar.rows, self.crossbar.cols),
            "window": self.window,
            "v_max": self.v_max,
        }
        return Architecture(**(fixed | overrides))


_GENIEX = (
    "Chakraborty et al., GENIEx, DAC 2020: R_on 100 kOhm, on/off 6, 0.25 V. Its terminal and wire resistances and"
    " v0 are unpublished; 500, 100 and 2.5 Ohm and 0.25 V reproduce its published ratio ranges."
)
_YALE = (
    "Bhattacharjee, Bhatnagar, Panda, DATE 2022 and the group's earlier work: driver 1 kOhm, wires 5 (row) and 10"
    " (column) Ohm, sense 1 kOhm, R_min 20 kOhm, on/off 10."
)
_HARSH = (
    "Our choice: GENIEx' circuit with a fifth of the cell resistance, twice the wire resistance and twice the drive."
    " The shipped CNN loses about 11 points on it, so that surrogates and mitigations can be told apart."
)
_WIRES = "Wires only, 2 Ohm per cell as in Agrawal, Lee, Roy, X-CHANGR 2019, with cells of 20 to 200 kOhm."

_HARSH_WIRES = (
    "Our choice: wire-128 with GENIEx' 2.5 Ohm per cell. The study networks lose 5 points or more on it, so that there"
    " is accuracy for remapping to recover."
)


def _geniex(size: int) -> Preset:
    return Preset(Crossbar(size, size), ConductanceWindow(100e3, 6.0), 0.25, _GENIEX)


presets: dict[str, Preset] = {
    "geniex-16": _geniex(16),
    "geniex-32": _geniex(32),
    "geniex-64": _geniex(64),
    "harsh-64": Preset(Crossbar(64, 64, r_wire=5.0), ConductanceWindow(20e3, 10.0), 0.5, _HARSH),
    "yale-64": Preset(
        Crossbar(64, 64, r_source=1e3, r_sink=1e3, r_wire_row=5.0, r_wire_col=10.0),
        ConductanceWindow(20e3, 10.0),
        0.25,
        _YALE,
    ),
    "wire-128": Preset(
        Crossbar(128, 128, r_source=0.0, r_sink=0.0, r_wire=2.0), ConductanceWindow(20e3, 10.0), 0.25, _WIRES
    ),
    "wire-128-harsh": Preset(
        Crossbar(128, 128, r_source=0.0, r_sink=0.0, r_wire=2.5), ConductanceWindow(20e3, 10.0), 0.25, _HARSH_WIRES
    ),
}
"""The circuits that studies and papers use, by name."""
