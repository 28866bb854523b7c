"""Sampled conductances and voltages, solved in parallel and kept in one HDF5 file that survives any kill."""

from geniex.sweep.circuits import CircuitRanges, TileCircuits
from geniex.sweep.config import SweepConfig, load_sweep_config
from geniex.sweep.file import SweepFile
from geniex.sweep.run import SweepObserver, run_sweep
from geniex.sweep.sampling import draw_tile
from geniex.sweep.verify import verify_sweep

__all__ = [
    "CircuitRanges",
    "SweepConfig",
    "SweepFile",
    "SweepObserver",
    "TileCircuits",
    "draw_tile",
    "load_sweep_config",
    "run_sweep",
    "verify_sweep",
]
