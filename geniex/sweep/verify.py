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
    total = sweep.tiles * sweep.vectors
    picks = torch.randperm(total, generator=generator)[:count].tolist()
    worst = 0.0
    for tile, vector in (divmod(pick, sweep.vectors) for pick in sorted(picks)):
        conductances, voltages, stored = (x[0] for x in sweep.read(tile, tile + 1))
        currents = sweep.crossbar.solve(voltages[vector], conductances, method="ngspice")
        scale = stored[vector].abs().clamp(min=1e-3 * stored[vector].abs().max().item())
        worst = max(worst, ((currents - stored[vector]).abs() / scale).max().item())
    return worst
