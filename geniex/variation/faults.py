"""Cells and lines that cannot be programmed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from geniex.config import check_number, check_positive_int
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.variation.base import Variation, draw_normal

StuckAt = Literal["on", "off", "open"]


@dataclass(frozen=True)
class StuckCells(Variation):
    """Cells that stay at G_off or at G_on, whatever is written.

    A standard normal field over the cells decides: cells with its lowest values are stuck off, those with its highest
    values are stuck on. With ``cluster`` = 1 cells are independent. For larger ``cluster`` the field is the scaled mean
    over a square of that edge, so that faults of a kind lie together while each cell's probability stays the same.
    """

    off: float
    """Probability that a cell is stuck at G_off."""
    on: float
    """Probability that a cell is stuck at G_on."""
    cluster: int = 1
    """Edge, in cells, of the square over which faults are correlated."""

    def __post_init__(self) -> None:
        check_number("off", self.off, low=0.0, high=1.0)
        check_number("on", self.on, low=0.0, high=1.0)
        if self.off + self.on > 1:
            raise InputError("on", self.on, f"off + on must be at most 1, and off is {self.off}")
        check_positive_int("cluster", self.cluster)

    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The conductances, with G_off or G_on at stuck cells."""
        edge = self.cluster
        rows, cols = conductances.shape[-2:]
        field = draw_normal((*conductances.shape[:-2], rows + edge - 1, cols + edge - 1), generator)
        if edge > 1:
            # A mean of edge^2 draws has the standard deviation 1 / edge.
            field = edge * functional.avg_pool2d(field.reshape(-1, 1, *field.shape[-2:]), edge, stride=1)
            field = field.reshape(conductances.shape)
        below, above = torch.special.ndtri(torch.tensor([self.off, 1 - self.on], dtype=torch.float64)).unbind()
        varied = torch.where(field <= below, window.g_off, conductances)
        return torch.where(field > above, window.g_on, varied)


@dataclass(frozen=True)
class StuckLines(Variation):
    """Whole word lines or bit lines whose cells are all stuck, independently of each other."""

    word_lines: float = 0.0
    """Probability that a word line (row) is stuck."""
    bit_lines: float = 0.0
    """Probability that a bit line (column) is stuck."""
    at: StuckAt = "open"
    """Conductance of stuck lines' cells: "on" (G_on), "off" (G_off), or "open" (0 S, a broken line)."""

    def __post_init__(self) -> None:
        check_number("word_lines", self.word_lines, low=0.0, high=1.0)
        check_number("bit_lines", self.bit_lines, low=0.0, high=1.0)
        if self.at not in get_args(StuckAt):
            raise InputError("at", repr(self.at), f"it must be one of {', '.join(get_args(StuckAt))}")

    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The conductances, with that of ``at`` on stuck lines."""
        *lead, rows, cols = conductances.shape
        shares = ((self.word_lines, (*lead, rows, 1)), (self.bit_lines, (*lead, 1, cols)))
        words, bits = (torch.rand(shape, generator=generator, dtype=torch.float64) < share for share, shape in shares)
        value = {"on": window.g_on, "off": window.g_off, "open": 0.0}[self.at]
        return torch.where(words | bits, value, conductances)
