"""One transistor, one resistor (1T1R): a cell in series with the device that selects it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from geniex.cells.base import Cell, Scalar, check_reference_voltage, describe_scalar, per_tile
from geniex.cells.mosfet import Level1Mosfet
from geniex.cells.root import differentiate_root, increasing_root
from geniex.config import check_number
from geniex.errors import InputError


@dataclass(frozen=True)
class OneTransistorOneResistor(Cell):
    """``cell`` at the word line, in series with an access device at the bit line: ``r_access`` or ``mosfet``.

    G is the memristive cell's own conductance (by the cell's own convention), or, with ``reference_voltage``,
    the conductance I / u of the pair at that voltage. ``small_signal`` is that of the pair.

    At the inner node the cell's current f(v) equals that of the access device. For given u, the cell's
    share v is the root of m f(v) - a(u - v), which increases in v. For a resistance r, m = r and a(w) = w, so
    that r may be zero; for a transistor, m = 1 and a is its current. Hence dI/du = f' a' / (m f' + a').

    >>> from geniex.cells import LinearCell
    >>> pair = OneTransistorOneResistor(LinearCell(), r_access=1e4)
    >>> pair.current(torch.tensor(0.2), torch.tensor(1e-4))
    tensor(1.0000e-05)
    """

    cell: Cell
    """The memristive cell."""
    r_access: Scalar | None = None
    """Resistance of the access device, ohm; a tensor holds one value for all tiles, or one per tile."""
    mosfet: Level1Mosfet | None = None
    """Access transistor, with its drain at the cell and its source at the bit line."""
    reference_voltage: float | None = None
    """Voltage across the pair at which I = G u, volt; None means that G is the memristive cell's."""
    _words: ClassVar[str | None] = "1T1R cells"

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Cell):
            raise InputError("cell", repr(self.cell), "it must be a geniex Cell, such as SinhCell(v0=0.25)")
        if (self.r_access is None) == (self.mosfet is None):
            given = "neither" if self.mosfet is None else "both"
            raise InputError("r_access, mosfet", given, "give one access device: a resistance in ohm or a Level1Mosfet")
        if self.mosfet is not None and not isinstance(self.mosfet, Level1Mosfet):
            raise InputError("mosfet", repr(self.mosfet), "it must be a Level1Mosfet")
        if self.r_access is not None and not isinstance(self.r_access, Tensor):
            check_number("r_access", self.r_access, low=0.0, unit="ohm")
        if self.reference_voltage is not None:
            check_reference_voltage(self.reference_voltage)
            if not self.cell.scales_with_conductance:
                raise InputError(
                    "reference_voltage",
                    f"{self.reference_voltage!r}",
                    f"the current of {type(self.cell).__name__} must be proportional to G to be programmed through"
                    " the access device; give the reference voltage to the inner cell instead",
                )

    @property
    def details(self) -> str:
        """The memristive cell and its access device."""
        if self.mosfet is not None:
            access = f"a transistor of {1 / self.mosfet.small_signal:.4g} ohm"
        else:
            assert self.r_access is not None
            access = f"{describe_scalar(self.r_access)} ohm"
        reference = "" if self.reference_voltage is None else f", G at {self.reference_voltage:g} V"
        return f"{self.cell.short} behind {access}{reference}"

    @property
    def is_linear(self) -> bool:
        """True for a linear cell behind a resistance."""
        return self.cell.is_linear and self.mosfet is None

    def current(self, u: Tensor, g: Tensor) -> Tensor:
        """The current of the pair, in ampere; it has only first derivatives, by implicit differentiation."""
        if self.is_linear:
            return self.small_signal(g) * u
        g = self._element(g)
        with torch.no_grad():
            v = self._share(u, g)
        if torch.is_grad_enabled():
            drop, _ = self._access(u - v)
            with torch.no_grad():
                _, slope = self._mismatch(v, u, g)
            v = differentiate_root(self._weight * self.cell.current(v, g) - drop, v, slope)
        return self.cell.current(v, g)

    def derivative(self, u: Tensor, g: Tensor) -> Tensor:
        """The slope f' a' / (m f' + a') at the voltage of the inner node, in siemens."""
        return self.current_and_derivative(u, g)[1]

    def current_and_derivative(self, u: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The current and its slope from one solution of the inner node, without gradients."""
        if self.is_linear:
            pair = self.small_signal(g)
            return pair * u, pair.expand(torch.broadcast_shapes(u.shape, pair.shape))
        with torch.no_grad():
            g = self._element(g)
            v = self._share(u, g)
            current, f = self.cell.current_and_derivative(v, g)
            _, a = self._access(u - v)
            return current, f * a / (self._weight * f + a)

    def small_signal(self, g: Tensor) -> Tensor:
        """The pair's conductance at 0 V, siemens."""
        f = self.cell.small_signal(self._element(g))
        a = 1.0 if self.mosfet is None else self.mosfet.small_signal
        return f * a / (self._weight * f + a)

    def check_range(self, conductances: Tensor, span: float) -> None:
        """Raise ``InputError`` as the inner cell does, and for a G that no cell behind this access device can show."""
        inner = self._element(conductances)
        if inner.isnan().any():
            largest = conductances[~inner.isnan()].max().item() if (~inner.isnan()).any() else 0.0
            raise InputError(
                "conductances",
                f"up to {conductances.max().item():g} S",
                f"the access device alone conducts less than that at the reference voltage of"
                f" {self.reference_voltage:g} V; the largest of these conductances that it allows is {largest:g} S",
            )
        self.cell.check_range(inner, span)

    def spice(self, name: str, plus: str, minus: str, g: float) -> str:
        """The card of the cell, and that of a resistor or a level-1 transistor."""
        inner, node = self._element(torch.tensor(g, dtype=torch.float64)).item(), f"n_{name}"
        if self.mosfet is not None:
            return f"{self.cell.spice(name, plus, node, inner)}\n{self.mosfet.spice(f'{name}a', node, minus)}"
        if self.r_access == 0:
            return self.cell.spice(name, plus, minus, inner)
        return f"{self.cell.spice(name, plus, node, inner)}\nR{name}a {node} {minus} {float(self.r_access)!r}"  # type: ignore[arg-type]

    @property
    def _weight(self) -> Scalar:
        """The weight m: the access resistance in ohm, or 1 for a transistor."""
        return 1.0 if self.r_access is None else per_tile(self.r_access)

    def _access(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The function a(w) of the access device, and its slope."""
        return (w, torch.ones_like(w)) if self.mosfet is None else self.mosfet.current_and_derivative(w)

    def _mismatch(self, v: Tensor, u: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        current, f = self.cell.current_and_derivative(v, g)
        drop, a = self._access(u - v)
        return self._weight * current - drop, self._weight * f + a

    def _share(self, u: Tensor, g: Tensor) -> Tensor:
        """The inner cell's voltage v, in the broadcast shape."""
        f = self.cell.small_signal(g)
        a = 1.0 if self.mosfet is None else self.mosfet.small_signal
        start = u * (a / (self._weight * f + a))
        u = u.expand_as(start)
        return increasing_root(lambda v: self._mismatch(v, u, g), u.clamp(max=0), u.clamp(min=0), start)

    def _element(self, g: Tensor) -> Tensor:
        """The conductance of the memristive cell in a pair of conductance ``g``; NaN where no cell can reach that."""
        volt = self.reference_voltage
        if volt is None:
            return g
        current = g * volt
        if self.mosfet is None:
            drop = self._weight * current
        else:
            drop = self._drop(current, volt)
        rest = torch.where(drop < volt, volt - drop, torch.nan)
        return current / self.cell.current(rest, torch.ones_like(rest))

    def _drop(self, current: Tensor, volt: float) -> Tensor:
        """The voltage across the transistor at ``current``, or ``volt`` where it carries less than that at ``volt``."""
        assert self.mosfet is not None
        mosfet, zero = self.mosfet, torch.zeros_like(current)

        def excess(w: Tensor) -> tuple[Tensor, Tensor]:
            carried, slope = mosfet.current_and_derivative(w)
            return carried - current, slope

        with torch.no_grad():
            w = increasing_root(excess, zero, zero + volt, zero)
            w = torch.where(excess(zero + volt)[0] > 0, w, volt)
        value, slope = excess(w)
        return differentiate_root(value, w, slope.detach()) if torch.is_grad_enabled() else w
