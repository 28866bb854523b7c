"""Bins that divide the columns of an evaluation by NF, sparsity, voltage and the range of the circuit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from geniex.circuit import non_ideality_factor, shared_matmul
from geniex.study.contenders import Block

NO_BIN = 255
"""The bin of columns without the figure, such as columns without NF or cells without v0."""
_ABOVE_OFF = 1 + 1e-9
"""Factor of G_off: a cell up to this conductance is at the lowest level."""
_TRAINED_SIZE = 64
"""Largest number of rows or columns of the arrays that surrogates are trained on."""


@dataclass(frozen=True)
class Breakdown:
    """One way to sort columns into bins."""

    title: str
    """Name of the binned figure, with its unit."""
    edges: tuple[float, ...]
    """Inner edges; a value on an edge is in the bin above it."""
    labels: tuple[str, ...]
    """Labels of the bins, one more than there are edges."""
    figure: Callable[[Block], Tensor]
    """Function that gives the figure of each column; the result broadcasts to (tiles, vectors, cols)."""

    def bins(self, block: Block) -> Tensor:
        """The bin of each column (tiles, vectors, cols), uint8."""
        value = self.figure(block)
        found = torch.bucketize(value, torch.tensor(self.edges, dtype=value.dtype), right=True)
        return torch.where(value.isnan(), NO_BIN, found).to(torch.uint8).expand(block.currents.shape)


def _between(title: str, edges: tuple[float, ...], figure: Callable[[Block], Tensor], unit: str = "") -> Breakdown:
    middle = tuple(f"{low:g} to {high:g}{unit}" for low, high in pairwise(edges))
    return Breakdown(title, edges, (f"below {edges[0]:g}{unit}", *middle, f"from {edges[-1]:g}{unit}"), figure)


def _nf_percent(block: Block) -> Tensor:
    return 100 * non_ideality_factor(shared_matmul(block.voltages, block.conductances), block.currents)


def _lowest_cells(block: Block) -> Tensor:
    circuits = block.circuits
    g_off = 1 / (circuits.r_on * circuits.on_off)
    lowest = block.conductances <= _ABOVE_OFF * g_off[:, None, None, None]
    return lowest.double().mean((-2, -1))[..., None]


def _zero_inputs(block: Block) -> Tensor:
    return (block.voltages == 0).double().mean(-1, keepdim=True)


def _mean_input(block: Block) -> Tensor:
    return block.voltages.mean(-1, keepdim=True) / block.circuits.v_max[:, None, None]


def _drive(block: Block) -> Tensor:
    return (block.circuits.v_max / block.circuits.v0)[:, None, None]


def _range(block: Block) -> Tensor:
    if max(block.conductances.shape[-2:]) > _TRAINED_SIZE:
        return torch.full((1, 1, 1), 2.0, dtype=torch.float64)
    drive = _drive(block)
    return torch.where(drive.isnan(), torch.nan, (drive > 1).double())


_SHARES = (0.25, 0.5, 0.75, 0.9)
BREAKDOWNS = {
    "nf": _between("exact NF", (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 40.0), _nf_percent, " %"),
    "cells": _between("share of cells at the lowest level or open", _SHARES, _lowest_cells),
    "inputs": _between("share of zero inputs", _SHARES, _zero_inputs),
    "voltage": _between("mean input / v_max", (0.05, 0.1, 0.2, 0.3, 0.5), _mean_input),
    "drive": _between("drive v_max / v0", (0.5, 1.0, 1.5), _drive),
    "range": Breakdown(
        "size and drive",
        (0.5, 1.5),
        (
            f"to {_TRAINED_SIZE}x{_TRAINED_SIZE}, drive to 1",
            f"to {_TRAINED_SIZE}x{_TRAINED_SIZE}, drive above 1",
            "larger",
        ),
        _range,
    ),
}
"""Breakdowns by name."""
