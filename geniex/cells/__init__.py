"""Cell I-V models, each with its SPICE card; ``geniex.cells.base`` shows how to write one of your own."""

from geniex.cells.base import Cell, spice_number
from geniex.cells.linear import LinearCell
from geniex.cells.mosfet import Level1Mosfet
from geniex.cells.series import OneTransistorOneResistor
from geniex.cells.sinh import SinhCell
from geniex.cells.tabulated import TabulatedCell

__all__ = [
    "Cell",
    "Level1Mosfet",
    "LinearCell",
    "OneTransistorOneResistor",
    "SinhCell",
    "TabulatedCell",
    "spice_number",
]
