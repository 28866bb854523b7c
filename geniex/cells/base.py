"""The contract of a cell: a passive, monotone two-terminal device between a word line and a bit line.

A cell of your own is a frozen dataclass with a current and its text for ngspice. It then solves, programs and
differentiates as the cells here do. Once registered, it also round-trips through JSON, sweep files and checkpoints:

>>> from dataclasses import dataclass
>>> from geniex.config import register_config
>>> @register_config
... @dataclass(frozen=True)
... class CubicCell(Cell):
...     vs: float = 0.5
...     def current(self, u, g):
...         return g * u * (1 + (u / self.vs) ** 2)
...     def spice(self, name, plus, minus, g):
...         u, vs = f"V({plus},{minus})", spice_number(self.vs)
...         return f"B{name} {plus} {minus} I={spice_number(g)}*{u}*(1+({u}/{vs})*({u}/{vs}))"
>>> CubicCell().derivative(torch.tensor(0.5), torch.tensor(1e-6))
tensor(4.0000e-06)
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Self

import torch
from torch import Tensor

from geniex.config import Config, check_number, warn_unit

Scalar = float | Tensor
_LONGEST = 32
"""Most characters of a field's value in a message."""


def spice_number(value: float) -> str:
    """The exact text of ``value`` for an expression in a netlist, where ngspice reads only 11 digits of a number.

    >>> spice_number(0.25)
    '0.25'
    >>> spice_number(1 / 3)
    '(0.33333333333+3.33333360913457e-12)'
    """
    leading = float(f"{value:.10e}")
    rest = value - leading
    return repr(value) if rest == 0 else f"({leading!r}{'+' if rest > 0 else ''}{rest!r})"


MAX_CONDUCTANCE = 1.0
"""Largest conductance, siemens; no memristive cell comes near it, but a conductance given in microsiemens does."""
MAX_VOLTAGE = 100.0
"""Largest voltage, volt; a voltage given in millivolt exceeds it."""
USUAL_VOLTAGE = 10.0
"""Largest usual voltage, volt; cells are read with less than 1 V."""


def check_reference_voltage(volt: float) -> None:
    """Raise ``InputError`` unless the voltage that defines G, in volt, is positive; warn if it exceeds 10 V."""
    check_number("reference_voltage", volt, low=0.0, open_low=True, unit="V")
    if volt > USUAL_VOLTAGE:
        warn_unit("reference_voltage", volt, "V", "cells are read with less than 1 V; is this in millivolt?")


def per_tile(value: Scalar) -> Scalar:
    """``value``, a float or a tensor of the leading (tile) dimensions, in a shape that broadcasts against
    (..., rows, cols)."""
    return value[..., None, None] if isinstance(value, Tensor) and value.dim() > 0 else value


def describe_scalar(value: Scalar) -> str:
    """The text of ``value`` for a message; of a tensor only the shape, as reading values would wait for the device."""
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value:g}"


class Cell(Config, ABC):
    """A two-terminal device I = f(u; G), where u is the word-line voltage minus the bit-line voltage.

    Laws, for every G > 0: f(0; G) = 0 (passive), f is strictly increasing in u (monotone), and df/du at 0 is
    ``small_signal(G)``, which is G unless the cell says otherwise. G = 0 is an open cell that carries no current.
    To add a cell, write ``current`` and ``spice``; ``derivative`` defaults to that of autograd.

    Fields that may be tensors (each cell says which) hold one value for all tiles, or one per tile: their dimensions
    broadcast against the leading dimensions of u (..., rows, cols).
    """

    _words: ClassVar[str | None] = None
    """Words by which reports name such cells, as "sinh cells"; None means the class name and "cells"."""

    @property
    def details(self) -> str:
        """The fields in a few words, with units; by default each field's value, shortened."""

        def told(value: object) -> str:
            if isinstance(value, Cell | Tensor):
                return value.short if isinstance(value, Cell) else describe_scalar(value)
            return text if len(text := repr(value)) <= _LONGEST else f"{text[: _LONGEST - 3]}..."

        return ", ".join(f"{name} = {told(value)}" for name, value in self._fields().items())

    @property
    def short(self) -> str:
        """The cell's name in messages: its class and ``details``."""
        return f"{type(self).__name__}({self.details})" if self.details else type(self).__name__

    @property
    def description(self) -> str:
        """The cells of an array in words, such as "linear cells", with ``details``."""
        words = self._words or f"{type(self).__name__} cells"
        return f"{words} ({self.details})" if self.details else words

    @property
    def is_linear(self) -> bool:
        """Whether I = ``small_signal(G)`` u exactly, so that the whole array is linear."""
        return False

    @property
    def scales_with_conductance(self) -> bool:
        """Whether f(u; G) = G f(u; 1), so that all G have one shape."""
        return False

    @abstractmethod
    def current(self, u: Tensor, g: Tensor) -> Tensor:
        """The current in ampere at cell voltage ``u`` (V) for conductance ``g`` (S); the two broadcast."""

    @abstractmethod
    def spice(self, name: str, plus: str, minus: str, g: float) -> str:
        """The ngspice card, of one line or more, for one such device of conductance ``g`` (S) between two nodes.

        ``name`` is unique in the netlist: prefix it with the element letter, or, for nodes inside the device, with
        ``n`` and an underscore. Pass numbers in expressions of behavioural sources through ``spice_number``.
        """

    def derivative(self, u: Tensor, g: Tensor) -> Tensor:
        """The slope dI/du in siemens at cell voltage ``u`` (V) for conductance ``g`` (S); the two broadcast."""
        u, g = torch.broadcast_tensors(u, g)
        with torch.enable_grad():
            at = u.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.current(at, g.detach()).sum(), at)
        return slope

    def current_and_derivative(self, u: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The current and its derivative at once; override this where they share work."""
        return self.current(u, g), self.derivative(u, g)

    def small_signal(self, g: Tensor) -> Tensor:
        """The slope dI/du at 0 V (S) of cells of conductance ``g`` (S), in the shape of ``g``."""
        return g

    def check_range(self, conductances: Tensor, span: float) -> None:
        """Raise ``InputError`` if the model does not hold for cells of ``conductances`` (S), up to +-``span`` V.

        ``current`` is called on the way to a solution and checks nothing. The cells of a passive array see at most
        the span of its drives and ground, so one check before the solution is enough.
        """

    def tensors(self) -> Iterator[Tensor]:
        """Yields the tensors among the fields, including those of a cell within a cell."""
        for value in self._fields().values():
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, Cell):
                yield from value.tensors()

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A copy with ``change`` applied to each tensor among the fields, including those of a cell within a cell."""
        changes: dict[str, Tensor | Cell] = {}
        for name, value in self._fields().items():
            if isinstance(value, Tensor):
                changes[name] = change(value)
            elif isinstance(value, Cell) and any(True for _ in value.tensors()):
                changes[name] = value.map_tensors(change)
        return self.replace(**changes) if changes else self

    def _fields(self) -> dict[str, object]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
