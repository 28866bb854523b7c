"""Finished sweeps held against SPICE."""

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

    Each is one vector of one tile, drawn without repetition where there are enough. The file keeps the result in
    its ``verified_*`` attributes; the digest does not see them.

    Raises:
        MissingDependencyError: ngspice or PySpice is not there.
    """
    return _verify([SweepFile(path)], count, seed)


def verify_sweep_set(path: str | Path, count: int = 20, seed: int = 0) -> float:
    """The same of a set's index, the vectors drawn over all its files; each file keeps its own part."""
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
    """The worst deviation of these vectors, counted through all tiles."""
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
    # A column of open cells alone carries nothing in both.
    return torch.where(again == stored, 0.0, (again - stored).abs() / scale).max().item()


def _each(sweep: SweepFile, tiles: list[int], voltages: Tensor, conductances: Tensor) -> Tensor:
    """Each vector on the circuit of its own tile; ngspice runs in processes, which the threads await."""
    crossbars = [sweep.circuits(tile, tile + 1).crossbar(0) for tile in tiles]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        solved = pool.map(lambda c, v, g: c.solve(v, g, method="ngspice"), crossbars, voltages, conductances)
        return torch.stack(list(solved))


def _keep(sweep: SweepFile, result: tuple[float, int, int, str]) -> None:
    # On a copy that takes the file's place: HDF5 does not survive a kill while it writes.
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
