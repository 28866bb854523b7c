"""The start of the network's training: weights centred on the data, and hidden units assigned to columns.

GENIEx publishes the network but neither its initial weights nor its optimiser; these are ours. A column's current
depends mostly on its own N cells and the N inputs, and on the other N (M - 1) cells only through the wires. So
hidden unit k starts as a unit of column k mod M, and all weights across columns start small and learn slowly: they
are trained as ``cross_rate`` times a raw weight, so that an Adam step moves them by ``cross_rate`` times the learning
rate. The trained network is a plain dense one.

Held-out NF-RMSE with this start, with torch's own start centred on the data, and with torch's own start, all at
``TrainConfig``'s learning rate, which was chosen with this start: 0.93, 1.22 and 1.34 pp at 16 x 16 (6,000 tiles of 8
vectors, 40 epochs; torch's centred start gives 1.16 pp at half the rate), and 1.37, 2.68 and 2.74 pp at 32 x 32 (4,000
tiles of 4 vectors, 60 epochs). Each figure is from one seed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from geniex.surrogate.mlp.network import GeniexMLP
from geniex.surrogate.mlp.tiles import TileBatch

_CROSS_START = 0.3
"""Initial size of the raw weights across columns, as a fraction of the size of a column's own weights."""


def cross_rate(cols: int) -> float:
    """Learning rate of the weights across columns, as a fraction of the rate of a column's own weights.

    The more columns there are, the more such weights move a hidden unit at each step. Validation NF-RMSE with
    fractions of 0.03, 0.1, 0.3: 0.89, 0.85, 0.97 pp at 32 x 32 (6 epochs); with 0.025, 0.05, 0.1: 1.43, 1.38, 1.51 pp
    at 64 x 64 (4 epochs). All of these weights start at 0.03 of a column's own; 0.05 with starts at 0.01 and at 0.0001
    gives 1.32 pp.
    """
    return min(0.1, 3.2 / cols)


def start(surrogate: GeniexMLP, batch: TileBatch) -> None:
    """Draw the initial weights of ``surrogate`` from torch's random state and prepare them for training.

    The weights are centred on the samples in ``batch``.
    """
    rows, cols, hidden = surrogate.crossbar.rows, surrogate.crossbar.cols, surrogate.hidden.out_features
    own = torch.arange(hidden)[:, None] % cols == torch.arange(cols)  # (hidden, cols)
    cells = own[:, None].expand(hidden, rows, cols).flatten(1)
    inputs = torch.cat([cells, torch.ones(hidden, rows, dtype=torch.bool)], dim=1)
    _share_out(surrogate.hidden, inputs, 2 * rows, cross_rate(cols))
    _share_out(surrogate.output, own.T, max(1, hidden // cols), cross_rate(cols))
    centre(surrogate, batch)


def finish(surrogate: GeniexMLP) -> None:
    """Turn the trained scaled weights into plain ones."""
    for layer in (surrogate.hidden, surrogate.output):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def centre(surrogate: GeniexMLP, batch: TileBatch) -> None:
    """Shift the biases so that hidden units switch, and the outputs start, at the mean of ``batch``.

    G' and V' lie in 0..1 and not around 0, so that a random unit would otherwise be on, or off, for nearly all samples.
    """
    with torch.no_grad():
        mean_g, mean_v = batch.conductances.mean(0), batch.voltages.mean((0, 1))
        surrogate.hidden.bias.sub_(surrogate.tile_half(mean_g) + surrogate.vector_half(mean_v))
        surrogate.output.bias.fill_(batch.ratios[batch.known].mean().item())


class _Scaled(nn.Module):
    """A weight that is trained as ``scale`` times a raw one."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        return self.scale * raw

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / self.scale


def _share_out(layer: nn.Linear, own: Tensor, fan_in: int, cross: float) -> None:
    """Draw weights of variance 1 / ``fan_in`` where ``own`` is true; elsewhere they start small and learn slowly."""
    size = math.sqrt(3 / fan_in)
    with torch.no_grad():
        layer.weight.uniform_(-size, size).mul_(torch.where(own, 1.0, _CROSS_START * cross))
    parametrize.register_parametrization(layer, "weight", _Scaled(torch.where(own, 1.0, cross)))
