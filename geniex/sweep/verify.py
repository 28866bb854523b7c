"""A finished sweep held against SPICE."""

from __future__ import annotations

from pathlib import Path

import torch

from geniex.config import check_positive_int
from geniex.sweep.file import SweepFile


def verify_sweep(path: str | Path, count: int = 20, seed: int = 0) -> float:
    """The worst |dI_j| / max(|I_j|, 1e-3 max_j |I_j|) of ``count`` random vectors, solved again by ngspice.

    Each is one vector of one tile, drawn without repetition where there are enough.

    Raises:
        MissingDependencyError: ngspice or PySpice is not there.
    """
    check_positive_int("count", count)
    sweep = SweepFile(path)
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randperm(sweep.tiles * sweep.vectors, generator=generator)[:count].tolist()
    drawn = []
    for tile, vector in (divmod(pick, sweep.vectors) for pick in sorted(picks)):
        conductances, voltages, currents = sweep.read(tile, tile + 1)
        drawn.append((conductances[0], voltages[0, vector], currents[0, vector]))
    conductances, voltages, stored = (torch.stack(values) for values in zip(*drawn, strict=True))
    again = sweep.crossbar.solve(voltages, conductances, method="ngspice")
    scale = torch.maximum(stored.abs(), 1e-3 * stored.abs().amax(-1, keepdim=True))
    return ((again - stored).abs() / scale).max().item()
