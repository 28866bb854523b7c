"""The crossbar circuit and its exact solutions: native, linear, ngspice."""

from geniex.circuit.broadcast import shared_matmul
from geniex.circuit.crossbar import Crossbar
from geniex.circuit.metrics import nf_rmse, non_ideality_factor
from geniex.circuit.operating_point import OperatingPoint, operating_point
from geniex.circuit.solve.driver import solve_cells
from geniex.circuit.wires import Wires

__all__ = [
    "Crossbar",
    "OperatingPoint",
    "Wires",
    "nf_rmse",
    "non_ideality_factor",
    "operating_point",
    "shared_matmul",
    "solve_cells",
]
