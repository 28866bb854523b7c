"""The level-1 MOSFET that selects a cell."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from geniex.cells.base import USUAL_VOLTAGE
from geniex.config import Config, check_number, warn_unit
from geniex.errors import InputError

_USUAL_TRANSCONDUCTANCE = 0.1
"""Largest usual transconductance KP, A/V^2."""


@dataclass(frozen=True, kw_only=True)
class Level1Mosfet(Config):
    """An n-channel enhancement MOSFET (Shichman and Hodges, IEEE JSSC 3, 1968: SPICE level 1) as a two-terminal device.

    Its drain is at the memristor, its source is at the bit line, and its gate is held ``gate_voltage`` above the
    source terminal, so that the current depends only on the voltage w from drain to source. (In a crossbar
    the bit line lies near ground, and so does this gate's reference.) The bulk is tied to the source; there is
    no body effect (gamma = 0) and no junction leakage. With V = gate_voltage - threshold and beta = KP W/L:

        triode      0 <= w <= V     I = beta (1 + lambda w) (V - w/2) w
        saturation  V <= w          I = beta (1 + lambda w) V^2 / 2
        reverse     w < 0           I = -beta (1 + lambda |w|) (V + |w|/2) |w|

    The device is symmetric: in reverse, the memristor's side acts as the source, and the gate lies |w| further above
    it, so the device stays in triode. Without channel-length modulation the saturation current is flat.
    """

    gate_voltage: float
    """Gate voltage above the bit-line terminal, volt; it must exceed the threshold."""
    width_over_length: float
    """Width over length, W / L, of the channel."""
    threshold: float
    """Threshold voltage V_t, volt."""
    transconductance: float
    """Transconductance parameter KP = mobility times oxide capacitance, A/V^2."""
    channel_length_modulation: float = 0.0
    """Channel-length modulation lambda, 1/V; 0 gives a flat saturation current."""

    def __post_init__(self) -> None:
        check_number("gate_voltage", self.gate_voltage, low=0.0, unit="V")
        check_number("width_over_length", self.width_over_length, low=0.0, open_low=True)
        check_number("threshold", self.threshold, low=0.0, unit="V")
        check_number("transconductance", self.transconductance, low=0.0, open_low=True, unit="A/V^2")
        check_number("channel_length_modulation", self.channel_length_modulation, low=0.0, unit="1/V")
        if self.transconductance > _USUAL_TRANSCONDUCTANCE:
            doubt = "CMOS processes have 1e-5 to 1e-3 A/V^2; is this in microampere per V^2?"
            warn_unit("transconductance", self.transconductance, "A/V^2", doubt)
        if self.gate_voltage > USUAL_VOLTAGE:
            warn_unit(
                "gate_voltage", self.gate_voltage, "V", "gates are driven with a few volts; is this in millivolt?"
            )
        if self.gate_voltage <= self.threshold:
            raise InputError(
                "gate_voltage",
                f"{self.gate_voltage!r}",
                f"it must exceed the threshold of {self.threshold:g} V; for a cell that is not selected, set G = 0",
            )

    @property
    def overdrive(self) -> float:
        """Gate voltage above the threshold, volt."""
        return self.gate_voltage - self.threshold

    @property
    def gain(self) -> float:
        """The gain beta = KP W / L, A/V^2."""
        return self.transconductance * self.width_over_length

    @property
    def small_signal(self) -> float:
        """Channel conductance at 0 V, siemens."""
        return self.gain * self.overdrive

    def current_and_derivative(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Drain current (A) and its slope (S) at drain-to-source voltage ``w`` (V)."""
        beta, over, lam = self.gain, self.overdrive, self.channel_length_modulation
        # Beyond the edge of the triode region, the triode term (all but the modulation factor) stays at its edge value.
        inner = w.clamp(max=over)
        triode, rise = (over - inner / 2) * inner, over - inner
        longer = 1 + lam * w.abs()
        return beta * longer * triode, beta * (longer * rise + lam * w.sign() * triode)

    def spice(self, name: str, drain: str, source: str) -> str:
        """The cards of the transistor, of the voltage source at its gate, and of a model of its own."""
        gate = f"ng_{name}"
        return "\n".join(
            [
                f"V{name} {gate} {source} {self.gate_voltage!r}",
                f"M{name} {drain} {gate} {source} {source} m{name} W={self.width_over_length!r} L=1",
                f".model m{name} nmos(level=1 vto={self.threshold!r} kp={self.transconductance!r}"
                f" lambda={self.channel_length_modulation!r} gamma=0 phi=0.6 is=0)",
            ]
        )
