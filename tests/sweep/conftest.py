from pathlib import Path

import h5py
import numpy as np
import pytest

from geniex.circuit import Crossbar
from geniex.mapping import ConductanceWindow
from geniex.sweep import SweepConfig


@pytest.fixture
def small() -> SweepConfig:
    """A sweep of asymmetric 5 x 3 circuits that is solved in a blink, over several shards and solver blocks."""
    crossbar = Crossbar(5, 3, r_source=800.0, r_sink=150.0, r_wire_row=4.0, r_wire_col=9.0)
    return SweepConfig(crossbar, ConductanceWindow(20e3, 8.0), 0.3, tiles=21, vectors=3, seed=7, shard_tiles=4)


@pytest.fixture
def content():
    """All that a sweep file holds, as plain comparable values."""

    def read(path: Path) -> dict[str, object]:
        with h5py.File(path) as file:
            datasets = {name: (d.dtype.str, d.shape, d[()].tobytes()) for name, d in file.items()}
            attributes = {k: v.item() if isinstance(v, np.generic) else v for k, v in file.attrs.items()}
        return datasets | {"attributes": attributes}

    return read
