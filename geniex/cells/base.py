"""The contract of a cell: a passive, monotone two-terminal device between a word line and a bit line."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from geniex.config import Config


def spice_number(value: float) -> str:
    """``value`` for an expression in a netlist, where ngspice reads only 11 digits of a number.

    >>> spice_number(0.25)
    '0.25'
    >>> spice_number(1 / 3)
    '(0.33333333333+3.33333360913457e-12)'
    """
    leading = float(f"{value:.10e}")
    rest = value - leading
    return repr(value) if rest == 0 else f"({leading!r}{'+' if rest > 0 else ''}{rest!r})"


class Cell(Config, ABC):
    """A two-terminal device I = f(u; G), u = word-line voltage minus bit-line voltage.

    Laws, for every G > 0: f(0; G) = 0 (passive), f is strictly increasing in u (monotone),
    df/du at 0 is G (G is the small-signal conductance), and G = 0 is an open cell that carries nothing.
    To add a cell, write ``current`` and ``spice``; ``derivative`` defaults to autograd's.
    """

    @property
    def is_linear(self) -> bool:
        """Whether I = G u exactly, so that the whole array is linear."""
        return False

    @abstractmethod
    def current(self, u: Tensor, g: Tensor) -> Tensor:
        """Current in ampere at cell voltage ``u`` (V) for small-signal conductance ``g`` (S); broadcasts."""

    @abstractmethod
    def spice(self, name: str, plus: str, minus: str, g: float) -> str:
        """The ngspice card of one such device of conductance ``g`` (S) between two nodes; one line or more.

        ``name`` is unique in the netlist: prefix it with the element letter. Numbers in expressions of
        behavioural sources go through ``spice_number``.
        """

    def derivative(self, u: Tensor, g: Tensor) -> Tensor:
        """dI/du in siemens at cell voltage ``u``; broadcasts."""
        u, g = torch.broadcast_tensors(u, g)
        with torch.enable_grad():
            at = u.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.current(at, g.detach()).sum(), at)
        return slope

    def current_and_derivative(self, u: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Both at once; override where they share work."""
        return self.current(u, g), self.derivative(u, g)
