"""Column currents from ngspice, of one tile in this process, or of many tiles in worker processes.

Each task of a worker runs in a Python process that ends with it. Memory that libngspice leaks is freed with the
process, and a crash is an exit status. The caller may be a script without a main guard, a notebook, or itself a
worker of a process pool.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geniex.cells import Cell
from geniex.circuit.broadcast import Groups
from geniex.circuit.spice import worker as ngspice
from geniex.circuit.spice.netlist import write_cells, write_frame
from geniex.circuit.wires import Wires
from geniex.errors import InputError, SpiceError

_SOLVES_PER_WORKER = 256
"""Operating points after which a process is replaced: it keeps the memory that ngspice leaks, but takes 0.3 s to
start."""


class _Piece(NamedTuple):
    """Vectors ``start`` to ``stop`` of one tile."""

    tile: int
    start: int
    stop: int


def solve_ngspice(
    voltages: Tensor, conductances: Tensor, cell: Cell, wires: Wires, workers: int | None = None
) -> Tensor:
    """Column currents (..., cols) [A] from ngspice, in the inputs' dtype and on their device; no gradients.

    Args:
        voltages: driver voltages (..., rows) [V]; their leading dimensions broadcast with those of the conductances.
        conductances: cell conductances (..., rows, cols) [S]; a tile that vectors share is loaded once.
        cell: I-V model of the cells.
        wires: resistances, numbers.
        workers: number of processes at a time; None means one per core.

    Raises:
        MissingDependencyError: PySpice or libngspice is not on this machine.
        SpiceError: a tile has no solution, or its worker died.
    """
    _refuse_gradients(voltages, conductances)
    ngspice.find_library()
    rows, cols = conductances.shape[-2:]
    frame = write_frame(rows, cols, wires)
    lead = torch.broadcast_shapes(voltages.shape[:-1], conductances.shape[:-2])
    groups = Groups(lead, conductances.shape[:-2])
    g = _exact(conductances).reshape(-1, rows, cols)
    v = groups.gather(_exact(voltages).expand(*lead, rows)[..., None])[..., 0]
    currents = torch.empty(groups.tiles, groups.vectors, cols, dtype=torch.float64)

    def run(task: list[_Piece]) -> None:
        job = [
            {
                "netlist": frame + write_cells(g[p.tile], cell, wires),
                "voltages": v[p.tile, p.start : p.stop].tolist(),
            }
            for p in task
        ]
        for piece, answer in zip(task, _ask_worker(job), strict=True):
            if answer["error"] is not None:
                where = groups.index(piece.tile, piece.start + len(answer["currents"]))
                raise SpiceError(f"the tile at leading index {where} was not solved: {answer['error']}")
            currents[piece.tile, piece.start : piece.stop] = torch.tensor(answer["currents"], dtype=torch.float64)

    workers = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        try:
            list(pool.map(run, _tasks(groups, workers)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return groups.scatter(currents[..., None])[..., 0].to(voltages)


def solve_tile(voltages: Tensor, conductances: Tensor, cell: Cell, wires: Wires) -> Tensor:
    """Column currents (vectors, cols) [A] of one tile, from libngspice in this very process; no gradients.

    ``voltages`` is (vectors, rows) [V], ``conductances`` is (rows, cols) [S]. This is for callers that are themselves
    processes to be replaced, because memory that libngspice leaks stays in the process.
    """
    _refuse_gradients(voltages, conductances)
    rows, cols = conductances.shape
    netlist = write_frame(rows, cols, wires) + write_cells(_exact(conductances), cell, wires)
    currents = list(ngspice.solve_operating_points(netlist, _exact(voltages).tolist()))
    return torch.tensor(currents, dtype=torch.float64).reshape(-1, cols).to(voltages)


def _exact(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64)


def _refuse_gradients(voltages: Tensor, conductances: Tensor) -> None:
    for name, value in (("voltages", voltages), ("conductances", conductances)):
        if value.requires_grad and torch.is_grad_enabled():
            raise InputError(
                name,
                "a tensor that requires grad",
                "ngspice has no gradients; detach the tensor, or use method='native'",
            )


def _tasks(groups: Groups, workers: int) -> list[list[_Piece]]:
    """The pieces of work, grouped into the tasks that run in one process each."""
    step = _SOLVES_PER_WORKER
    pieces = [
        _Piece(tile, start, min(start + step, groups.vectors))
        for tile in range(groups.tiles)
        for start in range(0, groups.vectors, step)
    ]
    fair = math.ceil(len(pieces) / workers)
    most = step // max(1, min(groups.vectors, step))
    size = max(1, min(fair, most))
    return [pieces[k : k + size] for k in range(0, len(pieces), size)]


def _ask_worker(job: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # -P: the package's own folder must not shadow other modules.
    command = [sys.executable, "-P", ngspice.__file__]
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    if done.returncode == 0:
        return json.loads(done.stdout)
    status = f"exit status {done.returncode}"
    if done.returncode < 0:
        status = signal.Signals(-done.returncode).name
    last = " ".join(done.stderr.split("\n")[-4:]).strip()
    raise SpiceError(f"the ngspice worker died ({status}): {last or 'it printed no reason'}")
