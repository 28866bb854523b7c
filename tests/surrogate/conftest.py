from __future__ import annotations

from pathlib import Path

import pytest
import torch

from geniex.cells import SinhCell
from geniex.circuit import Crossbar
from geniex.mapping import ConductanceWindow
from geniex.surrogate import GeniexMLP
from geniex.sweep import SweepConfig, run_sweep


@pytest.fixture(scope="session")
def small_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 tiles of 8 x 8 with a strongly non-linear cell, 3 vectors each, solved exactly."""
    config = SweepConfig(
        Crossbar(8, 8, cell=SinhCell(v0=0.2)), ConductanceWindow(50e3, 6.0), v_max=0.3, tiles=400, vectors=3
    )
    return run_sweep(config, tmp_path_factory.mktemp("sweep") / "small.h5", workers=1)


@pytest.fixture
def untrained() -> GeniexMLP:
    """A random network of a 5 x 3 crossbar whose ratios lie around 1."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return GeniexMLP(
            Crossbar(5, 3), ConductanceWindow(100e3, 6.0), v_max=0.25, hidden=20, r_min=0.9, r_max=1.2
        ).double()
