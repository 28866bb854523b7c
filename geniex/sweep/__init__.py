"""Sweeps: sampled conductances and voltages, solved in parallel and kept in one HDF5 file that survives any kill."""

from geniex.sweep.circuits import CircuitRanges, TileCircuits
from geniex.sweep.config import SweepConfig
from geniex.sweep.file import SweepFile
from geniex.sweep.loading import load_sweep, load_sweep_config, load_sweep_set
from geniex.sweep.run import SweepObserver, run_sweep
from geniex.sweep.sampling import draw_tile
from geniex.sweep.sets import SweepIndex, SweepSet, open_sweep, run_sweep_set
from geniex.sweep.strategies import SampleMix
from geniex.sweep.verify import verify_sweep, verify_sweep_set

__all__ = [
    "CircuitRanges",
    "SampleMix",
    "SweepConfig",
    "SweepFile",
    "SweepIndex",
    "SweepObserver",
    "SweepSet",
    "TileCircuits",
    "draw_tile",
    "load_sweep",
    "load_sweep_config",
    "load_sweep_set",
    "open_sweep",
    "run_sweep",
    "run_sweep_set",
    "verify_sweep",
    "verify_sweep_set",
]
