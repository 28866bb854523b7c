"""The crossbar in ngspice: PySpice writes the netlist and drives libngspice (extra ``spice``)."""

from geniex.circuit.spice.ngspice import ngspice_version
from geniex.circuit.spice.solve import solve_ngspice, solve_tile

__all__ = ["ngspice_version", "solve_ngspice", "solve_tile"]
