"""The strategies that draw levels, and the shares in which a sweep mixes them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from geniex.config import Config, check_number
from geniex.errors import InputError

Codes = NDArray[np.int64]
_SHIFT = 1.5
"""Largest mean of the normal variable in correlated draws; it gives tiles of mostly low or mostly high levels."""


@dataclass(frozen=True)
class SampleMix(Config):
    """The weight with which each strategy draws; the weights may have any sum.

    >>> SampleMix(levels=1.0, network=3.0).shares()
    {'levels': 0.25, 'network': 0.75}
    """

    levels: float = 0.0
    """Weight of network-like and space-filling levels over all sparsities, see ``geniex.sweep.sampling``."""
    uniform: float = 0.0
    """Weight of independent levels, all equally likely."""
    sparsity: float = 0.0
    """Weight of independent levels whose share of zeros runs evenly over [0, 1); the others are equally likely."""
    correlated: float = 0.0
    """Weight of levels that are equally likely over all tiles, but similar along rows and columns of a tile, and
    between neighbours in a vector."""
    network: float = 0.0
    """Weight of bit slices of the weights, and bit streams of the activations, of the shipped fashion-cnn."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_number(field.name, getattr(self, field.name), low=0.0)
        if not any(vars(self).values()):
            raise InputError("weights of strategies", "all 0", "at least one must be greater than 0")

    def shares(self) -> dict[str, float]:
        """The share of each strategy that is in use; the shares sum to 1."""
        total = sum(vars(self).values())
        return {name: weight / total for name, weight in vars(self).items() if weight}

    def draw(self, rng: np.random.Generator) -> str:
        """The name of one strategy, drawn by the shares."""
        shares = self.shares()
        return list(shares)[rng.choice(len(shares), p=list(shares.values()))]


def draw_uniform(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> Codes:
    """Levels 0 .. 2**bits - 1, all equally likely."""
    return rng.integers(2**bits, size=shape)


def draw_sparse(rng: np.random.Generator, shape: tuple[int, ...], bits: int, zeros: float) -> Codes:
    """Levels with a share ``zeros`` of zeros; the other levels are equally likely."""
    return np.where(rng.random(shape) < zeros, 0, rng.integers(1, 2**bits, size=shape))


def draw_correlated(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> Codes:
    """Levels from the quantiles of a normal variable. In a tile it is a sum of a row's, a column's and a cell's own
    part, in drawn shares of the variance; in a vector it drifts along the rows."""
    if len(shape) == 1:
        z = _drifting(rng, shape[0])
    else:
        by_row, by_col, by_cell = np.sqrt(rng.dirichlet(np.ones(3)))
        rows, cols = rng.standard_normal((shape[0], 1)), rng.standard_normal((1, shape[1]))
        z = by_row * rows + by_col * cols + by_cell * rng.standard_normal(shape)
    below = torch.special.ndtr(torch.from_numpy(z + rng.uniform(-_SHIFT, _SHIFT))).numpy()
    return np.minimum(below * 2**bits, 2**bits - 1).astype(np.int64)


def _drifting(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """A stationary first-order autoregression of unit variance; its correlation length is log-uniform in [1, size]."""
    rho = np.exp(-1 / size ** rng.random())
    z = rng.standard_normal(size)
    for k in range(1, size):
        z[k] = rho * z[k - 1] + np.sqrt(1 - rho**2) * z[k]
    return z
