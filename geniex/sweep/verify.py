"""The comparison of finished sweeps with SPICE."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import torch
from torch import Tensor

from geniex.circuit.spice import ngspice_version
from geniex.config import check_positive_int, check_seed
from geniex.files import sync
from geniex.sweep import seal
from geniex.sweep.file import SweepFile
from geniex.sweep.layout import BULK, VERIFIED
from geniex.sweep.sets import SweepIndex


def verify_sweep(path: str | Path, count: int = 20, seed: int = 0) -> float:
    """The worst |dI_j| / max(|I_j|, 1e-3 max_j |I_j|) of ``count`` random vectors, solved again by ngspice.

    The vectors are drawn from all tiles without repetition; a file with fewer is verified in full. The file keeps the
    result in its ``verified_*`` attributes, which are no part of its digest.

    Raises:
        MissingDependencyError: ngspice or PySpice is not installed.
    """
    return _verify([SweepFile(path)], count, seed)


def verify_sweep_set(path: str | Path, count: int = 20, seed: int = 0) -> float:
    """``verify_sweep`` for a set's index: vectors are drawn from all its files, and each file keeps its own result."""
    return _verify(SweepIndex(path).files, count, seed)


def _verify(files: list[SweepFile], count: int, seed: int) -> float:
    check_positive_int("count", count)
    check_seed(seed)
    sizes = [file.tiles * file.vectors for file in files]
    picks = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    worst, start = 0.0, 0
    for file, size in zip(files, sizes, strict=True):
        own = picks[(picks >= start) & (picks < start + size)] - start
        start += size
        if len(own):
            deviation = _deviation(file, own.tolist())
            _keep(file, (deviation, len(own), seed, ngspice_version() or "unknown"))
            worst = max(worst, deviation)
    return worst


def _deviation(sweep: SweepFile, picks: list[int]) -> float:
    """The worst deviation of the vectors ``picks``, which are numbered through all tiles."""
    drawn = []
    for tile, vector in (divmod(pick, sweep.vectors) for pick in picks):
        conductances, voltages, currents = sweep.read(tile, tile + 1)
        drawn.append((conductances[0], voltages[0, vector], currents[0, vector]))
    conductances, voltages, stored = (torch.stack(values) for values in zip(*drawn, strict=True))
    if sweep.spans_circuits:
        again = _each(sweep, [pick // sweep.vectors for pick in picks], voltages, conductances)
    else:
        again = sweep.crossbar.solve(voltages, conductances, method="ngspice")
    scale = torch.maximum(stored.abs(), 1e-3 * stored.abs().amax(-1, keepdim=True))
    # A column that has only open cells carries no current in either solution.
    return torch.where(again == stored, 0.0, (again - stored).abs() / scale).max().item()


def _each(sweep: SweepFile, tiles: list[int], voltages: Tensor, conductances: Tensor) -> Tensor:
    """The currents of each vector on the circuit of its own tile; the threads wait for processes that run ngspice."""
    crossbars = [sweep.circuits(tile, tile + 1).crossbar(0) for tile in tiles]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        solved = pool.map(lambda c, v, g: c.solve(v, g, method="ngspice"), crossbars, voltages, conductances)
        return torch.stack(list(solved))


def _keep(sweep: SweepFile, result: tuple[float, int, int, str]) -> None:
    # A copy is written and then takes the file's place, because HDF5 does not survive a kill while it writes.
    sweep.close()
    aside = sweep.path.with_name(f"{sweep.path.name}.verified.tmp")
    try:
        shutil.copyfile(sweep.path, aside)
        with h5py.File(aside, "r+") as file:
            file.attrs.update(zip(VERIFIED, result, strict=True))
        seal.append(aside, BULK)
        sync(aside)
        os.replace(aside, sweep.path)
    finally:
        aside.unlink(missing_ok=True)
    sync(sweep.path.parent)
