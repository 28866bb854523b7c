"""The crossbar in ngspice: PySpice writes the netlist and drives libngspice (extra ``spice``)."""

from geniex.circuit.spice.solve import solve_ngspice, solve_tile
from geniex.circuit.spice.worker import ngspice_version

__all__ = ["ngspice_version", "solve_ngspice", "solve_tile"]
