"""A cell that is measured rather than modelled, by interpolation of the I-V curves of some states."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from geniex.cells.base import MAX_CONDUCTANCE, MAX_VOLTAGE, USUAL_VOLTAGE, Cell, check_reference_voltage
from geniex.cells.curves import Shapes, Table, build_table, spice_expression
from geniex.cells.iv_file import read_iv
from geniex.cells.pchip import Cubic, bases, cubics
from geniex.config import warn_unit
from geniex.errors import InputError


@dataclass(frozen=True)
class TabulatedCell(Cell):
    """A cell given by the I-V curves of one or several states at the same voltages, as tensors, lists or tuples.

    Along a curve the current is a monotone cubic (PCHIP) in the voltage. The conductance of a state is that
    of its curve: the slope at 0 V, or, better where the data are noisy, I / u at ``reference_voltage``. Let
    phi_s(u) = I_s(u) / G_s be the shape of state s. Then I(u; G) = G ((1 - t) phi_s(u) + t phi_{s+1}(u)) for G
    between the states s and s + 1, so that I(u; G) is monotone in u and keeps the convention of G. With
    ``between_states="log"``, t is linear in log G; with "linear", the current is linear in G.

    A single curve is the shape for all G. Curves that start at 0 V are taken as odd, I(-u) = -I(u).

    >>> cell = TabulatedCell((0.0, 0.1, 0.2, 0.4), (0.0, 1e-6, 2.5e-6, 8e-6), reference_voltage=0.2)
    >>> cell.current(torch.tensor([-0.2, 0.1, 0.2]), torch.tensor(1e-5))
    tensor([-2.0000e-06,  8.0000e-07,  2.0000e-06])
    """

    _words: ClassVar[str | None] = "tabulated cells"

    voltages: tuple[float, ...]
    """Voltages of the points, volt; strictly increasing, with 0 among them."""
    currents: tuple[tuple[float, ...], ...]
    """Currents of one curve per state, ampere, each strictly increasing and 0 at 0 V; a single curve may be given
    without the outer sequence."""
    reference_voltage: float | None = None
    """Voltage at which I = G u, volt; None means that G is dI/du at 0 V."""
    between_states: Literal["log", "linear"] = "log"
    """Interpolation between states: "log" mixes shapes linearly in log G, "linear" mixes currents linearly in G."""
    extrapolation: Literal["error", "linear"] = "error"
    """Behaviour beyond the table: "error" raises, "linear" continues straight in voltage, and with the shapes of the
    end states in G."""

    def __post_init__(self) -> None:
        currents = self.currents.tolist() if isinstance(self.currents, Tensor) else self.currents
        many = isinstance(currents, (list, tuple)) and all(isinstance(c, (list, tuple, Tensor)) for c in currents)
        curves = currents if many else (currents,)
        object.__setattr__(self, "voltages", _floats("voltages", self.voltages))
        object.__setattr__(self, "currents", tuple(_floats("currents", curve) for curve in curves))
        self._check_table()
        for name, allowed in (("between_states", ("log", "linear")), ("extrapolation", ("error", "linear"))):
            if getattr(self, name) not in allowed:
                raise InputError(name, repr(getattr(self, name)), f"it must be one of {', '.join(allowed)}")
        states = self.state_conductances
        for low, high in pairwise(states):
            if not low < high:
                raise InputError("currents", f"two curves of {low:g} S", "no two states may have the same conductance")
        if states[-1] > MAX_CONDUCTANCE:
            bound = f"it must be at most {MAX_CONDUCTANCE:g} S; is the current in microampere?"
            raise InputError("currents", f"a curve of {states[-1]:g} S", bound)
        top = max(-self.voltages[0], self.voltages[-1])
        if top > USUAL_VOLTAGE:
            warn_unit("voltages", top, "V", "cells are read with less than 1 V; is this in millivolt?")

    @classmethod
    def from_csv(
        cls,
        path: Path | str,
        *,
        columns: Sequence[str | None] | None = None,
        units: Sequence[str] | None = None,
        **options: Any,
    ) -> Self:
        """The cell in a comma-separated file with one voltage and a current for each state, in columns of any order.

        The first line names the columns with their units: V, mV, uV; A, mA, uA, nA, pA. "Voltage (mV)", "I [uA]",
        "low_A", "Current/nA" and "mV" are such names, and "V,I" alone means volt and ampere. Upper and lower case are
        the same. Lines that start with # are comments.

            voltage_V, low_uA, high_uA
            0.0, 0.0, 0.0
            0.1, 0.11, 1.0
            0.2, 0.30, 2.1

        Args:
            path: the file.
            columns: the meaning of each column, where the first line does not tell it or there is no such line: "V",
                "I", or None for a column to leave out, such as ``columns=("V", "I", None)``.
            units: the unit of each column that is used, or that of the voltage and that of all currents, such as
                ``units=("mV", "uA")``; they take precedence over the units in the file.
            **options: the other fields of the cell.

        Raises:
            FileFormatError: the file is no table of numbers, or does not tell columns and units.
            InputError: ``columns`` or ``units`` do not fit the file, or the numbers are no curves of a cell.
        """
        voltages, currents = read_iv(path, columns, units)
        try:
            return cls(voltages, currents, **options)
        except InputError as error:
            raise InputError(f"{path}: {error.name}", error.value, error.allowed) from None

    @property
    def details(self) -> str:
        """The number of states that were measured, and their range of voltages."""
        count = len(self.currents)
        return f"{count} state{'s' * (count > 1)}, {self.voltages[0]:g} to {self.voltages[-1]:g} V"

    @property
    def state_conductances(self) -> tuple[float, ...]:
        """The conductance of each curve by the cell's convention, siemens, in increasing order."""
        return self._shapes.conductances

    @property
    def scales_with_conductance(self) -> bool:
        """Whether there is only one curve."""
        return len(self.currents) == 1

    def current(self, u: Tensor, g: Tensor) -> Tensor:
        """The interpolated current, in ampere; beyond the table it continues in a straight line."""
        table = build_table(self._shapes, u)
        x, k = table.place(u)
        s, t = self._mix(g, table)
        shape = table.shape(x, s, k)
        return g * (shape if t is None else torch.lerp(shape, table.shape(x, s + 1, k), t))

    def derivative(self, u: Tensor, g: Tensor) -> Tensor:
        """The slope of the interpolated current, in siemens."""
        table = build_table(self._shapes, u)
        x, k = table.place(u)
        s, t = self._mix(g, table)
        slope = table.slope(x, s, k)
        return g * (slope if t is None else torch.lerp(slope, table.slope(x, s + 1, k), t))

    def small_signal(self, g: Tensor) -> Tensor:
        """G, or the slope at 0 V of the cell whose I / u at ``reference_voltage`` is G, in siemens."""
        return g if self.reference_voltage is None else self.derivative(torch.zeros_like(g), g)

    def check_range(self, conductances: Tensor, span: float) -> None:
        """Raise ``InputError`` for voltages or conductances beyond the table, unless ``extrapolation`` is "linear"."""
        if self.extrapolation == "linear":
            return
        way_out = 'measure a wider range, or choose extrapolation="linear"'
        low, high = self._shapes.knots[0], self._shapes.knots[-1]
        if span > min(-low, high):
            table = f"the table covers {low:g} to {high:g} V"
            raise InputError("voltages", f"up to {span:g} V across a cell", f"{table}: {way_out}")
        states = self.state_conductances
        if self.scales_with_conductance or conductances.numel() == 0:
            return
        # The arithmetic of a conductance window may miss an end by rounding; an open cell needs no curve.
        slack = 4 * torch.finfo(conductances.dtype).eps
        bad = (conductances > 0) & (conductances < states[0] * (1 - slack)) | (conductances > states[-1] * (1 + slack))
        if bad.any():
            value = conductances[bad][0].item()
            raise InputError(
                "conductances", f"{value:g} S", f"the curves cover {states[0]:g} to {states[-1]:g} S: {way_out}"
            )

    def spice(self, name: str, plus: str, minus: str, g: float) -> str:
        """The card of a behavioural current source with the same cubics, whose piece is found by bisection."""
        shapes, (s, t) = self._shapes, self._mix_number(g)
        other = min(s + 1, len(shapes.pieces) - 1)
        pieces = [
            tuple(g * ((1 - t) * a + t * b) for a, b in zip(first, second, strict=True))
            for first, second in zip(shapes.pieces[s], shapes.pieces[other], strict=True)
        ]
        source = spice_expression(f"V({plus},{minus})", shapes.knots, bases(shapes.knots), pieces)
        return f"B{name} {plus} {minus} I={source}"

    def _mix(self, g: Tensor, table: Table) -> tuple[Tensor, Tensor | None]:
        """The state below ``g``, and the share of the state above; the share is None where there is only one state."""
        states = table.states
        if len(states) == 1:
            return torch.zeros_like(g, dtype=torch.long), None
        # The shapes of the end states hold beyond them, so an open cell has a shape too.
        inside = torch.minimum(torch.maximum(g, states[0]), states[-1])
        s = torch.searchsorted(states[1:-1].contiguous(), inside.detach().contiguous(), right=True)
        low, high = states[s], states[s + 1]
        if self.between_states == "log":
            return s, torch.log(inside / low) / torch.log(high / low)
        return s, high * (inside - low) / (inside * (high - low))

    def _mix_number(self, g: float) -> tuple[int, float]:
        states = self.state_conductances
        if len(states) == 1:
            return 0, 0.0
        inside = min(max(g, states[0]), states[-1])
        s = bisect.bisect_right(states, inside, 1, len(states) - 1) - 1
        low, high = states[s], states[s + 1]
        if self.between_states == "log":
            return s, math.log(inside / low) / math.log(high / low)
        return s, high * (inside - low) / (inside * (high - low))

    @functools.cached_property
    def _shapes(self) -> Shapes:
        volts, states = self.voltages, []
        for curve in self.currents:
            if volts[0] == 0:
                knots = (*(-v for v in volts[:0:-1]), *volts)
                points = (*(-i for i in curve[:0:-1]), *curve)
            else:
                knots, points = volts, curve
            pieces = cubics(knots, points)
            states.append((self._conductance(knots, pieces), pieces))
        states.sort(key=lambda state: state[0])
        scaled = tuple(tuple(tuple(x / g for x in piece) for piece in pieces) for g, pieces in states)
        return Shapes(tuple(knots), tuple(g for g, _ in states), scaled)  # type: ignore[arg-type]

    def _conductance(self, knots: Sequence[float], pieces: Sequence[Cubic]) -> float:
        volt = self.reference_voltage
        k = bisect.bisect_right(knots, volt or 0.0)
        a, b, c, d = pieces[k]
        if volt is None:
            return b
        x = volt - bases(knots)[k]
        return (a + x * (b + x * (c + x * d))) / volt

    def _check_table(self) -> None:
        volts = self.voltages
        if len(volts) < 3:
            raise InputError("voltages", f"{len(volts)} points", "a curve needs at least 3 points")
        if not self.currents:
            raise InputError("currents", "no curves", "give one curve for each state")
        _check_increasing("voltages", volts, "V")
        if 0.0 not in volts or volts[-1] <= 0:
            raise InputError(
                "voltages", f"{volts[0]:g} to {volts[-1]:g} V", "the points must include 0 V and a voltage above it"
            )
        top = max(-volts[0], volts[-1])
        if top > MAX_VOLTAGE:
            raise InputError(
                "voltages", f"up to {top:g} V", f"it must be at most {MAX_VOLTAGE:g} V; is this in millivolt?"
            )
        origin = volts.index(0.0)
        for s, curve in enumerate(self.currents):
            name = f"currents, state {s}"
            if len(curve) != len(volts):
                raise InputError(name, f"{len(curve)} points", f"it must have {len(volts)}, one for each voltage")
            _check_increasing(name, curve, "A")
            if curve[origin] != 0:
                raise InputError(
                    f"{name}, row {origin}",
                    f"{curve[origin]:g} A at 0 V",
                    "a passive cell carries no current at 0 V: subtract the instrument's offset",
                )
        if self.reference_voltage is not None:
            check_reference_voltage(self.reference_voltage)
            if self.reference_voltage > volts[-1]:
                raise InputError(
                    "reference_voltage",
                    self.reference_voltage,
                    f"it must lie in the table, which ends at {volts[-1]:g} V",
                )


def _floats(name: str, values: Any) -> tuple[float, ...]:
    values = values.tolist() if isinstance(values, Tensor) else values
    try:
        return tuple(float(v) for v in values)
    except (TypeError, ValueError):
        raise InputError(name, repr(values), "it must be a sequence of numbers or a tensor") from None


def _check_increasing(name: str, values: Sequence[float], unit: str) -> None:
    for k, value in enumerate(values):
        if not math.isfinite(value):
            raise InputError(f"{name}, row {k}", f"{value} {unit}", "every value must be finite")
        if k and value <= values[k - 1]:
            before = f"the {values[k - 1]:g} {unit} of the row before"
            raise InputError(f"{name}, row {k}", f"{value:g} {unit}", f"it must exceed {before}")
