"""The crossbar: geometry, wires and cell, and the one call that solves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from geniex.cells import Cell, SinhCell
from geniex.circuit.broadcast import shared_matmul
from geniex.circuit.checks import check_conductances, check_voltages, has_values
from geniex.circuit.operating_point import OperatingPoint, operating_point
from geniex.circuit.solve.driver import OnFailure, solve_cells
from geniex.circuit.transfer_matrix import effective_conductance
from geniex.circuit.wires import Wires
from geniex.config import Config, check_number, check_positive_int, warn_unit
from geniex.errors import InputError

Method = Literal["auto", "native", "linear", "ngspice"]
_USUAL_R_WIRE = 1e3
"""Largest usual wire resistance between neighbouring cells, ohm; scaled copper has some tens."""
_USUAL_R_TERMINAL = 1e6
"""Largest usual driver or sense resistance, ohm."""
METHODS = ("auto", "native", "linear", "ngspice")


@dataclass(frozen=True)
class Crossbar(Config):
    """``rows`` word lines (inputs) by ``cols`` bit lines (outputs) of memristive cells, with their wires.

    The circuit is the one of ``geniex.circuit.wires``: column 0 is nearest the drivers, and row ``rows - 1`` is
    nearest the sense side. Any resistance may be zero. The defaults are the nominal circuit of GENIEx
    (Chakraborty et al., DAC 2020; its terminal and wire resistances are our reading, see ``presets``).

    >>> import torch
    >>> from geniex.cells import LinearCell
    >>> xbar = Crossbar(2, 1, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=LinearCell())
    >>> xbar.solve(torch.tensor([0.2, 0.1]), torch.tensor([[1e-5], [2e-5]]))
    tensor([4.0000e-06])
    """

    rows: int
    """Word lines, N."""
    cols: int
    """Bit lines, M."""
    r_source: float = 500.0
    """Driver resistance of each word line, ohm."""
    r_sink: float = 100.0
    """Sense resistance of each bit line, ohm."""
    r_wire: float = 2.5
    """Wire resistance between neighbouring cells, ohm, in both directions unless one is given separately."""
    r_wire_row: float | None = None
    """Wire resistance along a word line, ohm; None means ``r_wire``."""
    r_wire_col: float | None = None
    """Wire resistance along a bit line, ohm; None means ``r_wire``."""
    cell: Cell = field(default_factory=SinhCell)
    """The cell's I-V model."""

    def __post_init__(self) -> None:
        check_positive_int("rows", self.rows)
        check_positive_int("cols", self.cols)
        for name in ("r_source", "r_sink", "r_wire"):
            check_number(name, getattr(self, name), low=0.0, unit="ohm")
        for name in ("r_wire_row", "r_wire_col"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low=0.0, unit="ohm")
        self._warn_units()
        if not isinstance(self.cell, Cell):
            raise InputError("cell", repr(self.cell), "it must be a geniex Cell, such as SinhCell(v0=0.25)")

    def _warn_units(self) -> None:
        for name in ("r_wire", "r_wire_row", "r_wire_col"):
            ohm = getattr(self, name)
            if ohm is not None and ohm > _USUAL_R_WIRE:
                warn_unit(
                    name,
                    ohm,
                    "ohm",
                    "neighbouring cells are some ohm apart; is this a whole line, or in milliohm?",
                )
        for name in ("r_source", "r_sink"):
            ohm = getattr(self, name)
            if ohm > _USUAL_R_TERMINAL:
                warn_unit(name, ohm, "ohm", "drivers and sense amplifiers have a lower one; is this in milliohm?")

    @property
    def wires(self) -> Wires:
        """The wire and terminal resistances as numbers, ohm."""
        row = self.r_wire if self.r_wire_row is None else self.r_wire_row
        col = self.r_wire if self.r_wire_col is None else self.r_wire_col
        return Wires(self.r_source, self.r_sink, row, col)

    @property
    def description(self) -> str:
        """Size, cells, terminal and wire resistances in one line.

        >>> Crossbar(64, 64).description
        '64 x 64, sinh cells (v0 = 0.25 V), driver 500 ohm, sense 100 ohm, wires 2.5 ohm a cell'
        """
        row, col = self.wires.r_row, self.wires.r_col
        wires = f"wires {row:g}" if row == col else f"word lines {row:g} and bit lines {col:g}"
        terminals = f"driver {self.r_source:g} ohm, sense {self.r_sink:g} ohm"
        return f"{self.rows} x {self.cols}, {self.cell.description}, {terminals}, {wires} ohm a cell"

    def solve(
        self,
        voltages: Tensor,
        conductances: Tensor,
        method: Method = "auto",
        tol: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> Tensor:
        """Column currents (..., cols) [A] for voltages (..., rows) [V] and conductances (..., rows, cols) [S].

        Leading dimensions broadcast, and nothing is expanded: where the conductances lack a dimension or have
        size 1 in it, all work that depends on them alone is shared.

        Args:
            voltages: driver voltages of the word lines, volt.
            conductances: programmed conductances of the cells, siemens; 0 is an open cell.
            method: "native" solves Kirchhoff's equations exactly; "linear" takes the cells at their
                small-signal conductance; "ngspice" asks SPICE (float64 on the CPU, no gradients); "auto" is
                "linear" for linear cells, else "native".
            tol: relative tolerance of each column current, against max(|I_j|, 1e-3 max_j |I_j|); None means
                1e-9 in float64 and 1e-4 in float32.
            on_failure: the reaction of "native" to an array that does not reach ``tol``: "raise" an error, or "warn"
                and return the currents reached.

        Raises:
            InputError: a shape, dtype or value is not allowed.
            ConvergenceError: an array did not reach ``tol``; the message names its index and residual.
        """
        if method not in METHODS:
            raise InputError("method", repr(method), f"it must be one of {', '.join(METHODS)}")
        self._check(voltages, conductances)
        if method == "ngspice":
            from geniex.circuit.spice import solve_ngspice

            return solve_ngspice(voltages, conductances, self.cell, self.wires)
        if method == "linear" or (method == "auto" and self.cell.is_linear):
            return shared_matmul(voltages, self.wires_response(conductances))
        return solve_cells(voltages, conductances, self.cell, self.wires, tol=tol, on_failure=on_failure).currents

    def operating_point(
        self, voltages: Tensor, conductances: Tensor, tol: float | None = None, on_failure: OnFailure = "raise"
    ) -> OperatingPoint:
        """Node voltages, cell, row and column currents, and power, for the same arguments as ``solve``.

        >>> import torch
        >>> from geniex.cells import LinearCell
        >>> xbar = Crossbar(1, 1, r_source=2e3, r_sink=3e3, cell=LinearCell())
        >>> point = xbar.operating_point(torch.tensor([0.2]), torch.tensor([[2e-4]]))
        >>> point.word_line_voltages, point.bit_line_voltages, point.energy(read_time=10e-9)
        (tensor([[0.1600]]), tensor([[0.0600]]), tensor(4.0000e-14))
        """
        self._check(voltages, conductances)
        return operating_point(voltages, conductances, self.cell, self.wires, tol=tol, on_failure=on_failure)

    def effective_conductance(self, conductances: Tensor) -> Tensor:
        """The exact linear transfer matrix A (..., rows, cols) [S]: I = A^T V for linear cells.

        For non-linear cells it is the response of an array of cells at their small-signal conductance.
        """
        check_conductances(conductances, self.rows, self.cols)
        if has_values(conductances):
            self.cell.check_range(conductances, 0.0)
        return self.wires_response(conductances)

    def wires_response(self, conductances: Tensor) -> Tensor:
        """``effective_conductance`` without the checks, for callers that have already checked the conductances."""
        return effective_conductance(self.cell.small_signal(conductances), self.wires)

    def _check(self, voltages: Tensor, conductances: Tensor) -> None:
        check_voltages(voltages, self.rows)
        check_conductances(conductances, self.rows, self.cols, like=voltages)
        if has_values(voltages) and voltages.numel():
            # The node voltages of a passive network lie between its drives and ground.
            high, low = voltages.amax(-1).clamp(min=0), voltages.amin(-1).clamp(max=0)
            self.cell.check_range(conductances, (high - low).max().item())
