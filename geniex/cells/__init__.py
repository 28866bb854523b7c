"""Cell I-V models, each with its SPICE card."""

from geniex.cells.base import Cell, spice_number
from geniex.cells.linear import LinearCell
from geniex.cells.sinh import SinhCell

__all__ = ["Cell", "LinearCell", "SinhCell", "spice_number"]
