"""The conductance codes and stream levels that a sweep solves.

A surrogate must be right wherever a network can take it, so the draws mix levels like those of networks with levels
that cover the whole space. The strategies of ``SampleMix`` may be mixed; by default only the first, "levels", is used:

- Sparsity. The share of zero codes in a tile, and of zero levels in a vector, runs over [0, 1) in an additive
  low-discrepancy sequence (Roberts' R2, from the plastic number). Any run of tiles covers both shares evenly and
  jointly.
- Network-like values, for a share ``dnn_share`` of the draws. A tile holds the bit slices of 16-bit half-normal
  weights, the slices of one output side by side, most significant first, as GENIEx maps them: high slices come out
  sparse and low-valued, low slices uniform. A vector is one bit stream of 16-bit half-normal activations. The
  spread of the values is log-uniform over 2**-8 to 2**-1 of full scale.
- Space-filling values, for all other draws. In one half of these the non-zero levels are uniform, in the other half
  skewed to low levels: 1 + floor((levels - 1) u**skew) with u uniform over [0, 1) and skew uniform over [1, 6].
- Structure. In one half of the tiles the zeros are scattered cell by cell; in the other half some of them fill
  whole rows and columns, as pruning and padding leave them. No vector is all zero: it would teach nothing.

Tile k follows entirely from (seed, k), whatever the number of tiles, shards and workers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geniex.sweep.config import SweepConfig
from geniex.sweep.real import Place, network_codes, network_levels
from geniex.sweep.strategies import Codes, draw_correlated, draw_sparse, draw_uniform

_WORD_BITS = 16
"""Fixed-point bits of weights and activations, as in GENIEx."""
_SPREAD = (-8.0, -1.0)
"""Range of the spread of network-like values, as exponents of 2 relative to full scale."""
_SKEW = (1.0, 6.0)
_PLASTIC = 1.324717957244746
_STEPS = {"tile": 1 / _PLASTIC, "vector": 1 / _PLASTIC**2}
_STREAMS = {"tile": 0, "vector": 1, "draw": 2, "bits": 3, "circuit": 4, "strategy": 5}
"""Names of the independent random streams under one seed."""


def draw_tile(config: SweepConfig, tile: int) -> tuple[Codes, Codes]:
    """The conductance codes (rows, cols) and stream levels (vectors, rows) of ``tile``, int64, without open cells."""
    rng = np.random.default_rng([config.seed, _STREAMS["draw"], tile])
    first, (slice_bits, stream_bits) = tile * config.vectors, draw_bits(config, tile)
    strategies = draw_strategies(config, tile)
    codes, place = _draw_codes(rng, config, strategies[0], slice_bits, zero_share(config.seed, "tile", tile))
    levels = [
        _draw_levels(rng, config, strategy, stream_bits, zero_share(config.seed, "vector", first + v), place)
        for v, strategy in enumerate(strategies[1:])
    ]
    return codes, np.stack(levels)


def draw_strategies(config: SweepConfig, tile: int) -> list[str]:
    """The names of the strategies (fields of ``SampleMix``) that draw ``tile``, first, and each of its vectors."""
    rng = np.random.default_rng([config.seed, _STREAMS["strategy"], tile])
    mixes = [config.tiles_from, *[config.vectors_from] * config.vectors]
    return ["levels" if mix is None else mix.draw(rng) for mix in mixes]


def draw_bits(config: SweepConfig, tile: int) -> tuple[int, int]:
    """The slice bits and the stream bits of ``tile``."""
    if config.circuits is None:
        return config.slice_bits, config.stream_bits
    rng = np.random.default_rng([config.seed, _STREAMS["bits"], tile])
    slices, streams = config.circuits.slice_bits, config.circuits.stream_bits
    return slices[rng.integers(len(slices))], streams[rng.integers(len(streams))]


def circuit_seed(config: SweepConfig, tile: int) -> list[int]:
    """The seed from which the circuit of ``tile`` is drawn."""
    return [config.seed, _STREAMS["circuit"], tile]


def zero_share(seed: int, kind: str, index: int) -> float:
    """The share of zeros, in [0, 1), at which the tile or vector (``kind`` "tile" or "vector") of this index aims."""
    offset = np.random.default_rng([seed, _STREAMS[kind]]).random()
    return float((offset + index * _STEPS[kind]) % 1.0)


def _draw_codes(
    rng: np.random.Generator, config: SweepConfig, strategy: str, bits: int, zeros: float
) -> tuple[Codes, Place | None]:
    """The codes (rows, cols), and their place in the network, or None where they come from none."""
    rows, cols = config.crossbar.rows, config.crossbar.cols
    if strategy == "network":
        return network_codes(rng, rows, cols, bits)
    if strategy == "levels":
        return _tile_levels(rng, config, bits, zeros), None
    return _simple(rng, strategy, (rows, cols), bits, zeros), None


def _draw_levels(
    rng: np.random.Generator, config: SweepConfig, strategy: str, bits: int, zeros: float, place: Place | None
) -> Codes:
    """The levels (rows,) of one vector, not all 0."""
    rows = config.crossbar.rows
    if strategy == "network":
        levels = network_levels(rng, rows, bits, place)
    elif strategy == "levels":
        levels = _vector_levels(rng, config, bits, zeros)
    else:
        levels = _simple(rng, strategy, (rows,), bits, zeros)
    if not levels.any():
        levels[rng.integers(rows)] = rng.integers(1, 2**bits)
    return levels


def _simple(rng: np.random.Generator, strategy: str, shape: tuple[int, ...], bits: int, zeros: float) -> Codes:
    if strategy == "sparsity":
        return draw_sparse(rng, shape, bits, zeros)
    return {"uniform": draw_uniform, "correlated": draw_correlated}[strategy](rng, shape, bits)


def _tile_levels(rng: np.random.Generator, config: SweepConfig, bits: int, zeros: float) -> Codes:
    rows, cols = config.crossbar.rows, config.crossbar.cols
    if rng.random() < config.dnn_share:
        slices = -(-_WORD_BITS // bits)
        words = _words(rng, (rows, -(-cols // slices)))
        codes = _digits(words, bits).reshape(rows, -1)[:, :cols]
    else:
        codes = _spread_levels(rng, (rows, cols), bits)
    return np.where(_kept(rng, rows, cols, 1 - zeros), codes, 0)


def _vector_levels(rng: np.random.Generator, config: SweepConfig, bits: int, zeros: float) -> Codes:
    rows = config.crossbar.rows
    if rng.random() < config.dnn_share:
        streams = _digits(_words(rng, (rows,)), bits)
        levels = streams[:, rng.integers(streams.shape[1])]
    else:
        levels = _spread_levels(rng, (rows,), bits)
    return np.where(rng.random(rows) < zeros, 0, levels)


def _words(rng: np.random.Generator, shape: tuple[int, ...]) -> Codes:
    """Half-normal magnitudes in fixed point, clipped at full scale."""
    scale = 2.0 ** (_WORD_BITS + rng.uniform(*_SPREAD))
    return np.minimum(np.abs(rng.standard_normal(shape)) * scale, 2**_WORD_BITS - 1).astype(np.int64)


def _digits(words: Codes, bits: int) -> Codes:
    """The slices of ``bits`` bits of each word, (..., slices), most significant first."""
    shifts = np.arange(-(-_WORD_BITS // bits) - 1, -1, -1) * bits
    return (words[..., None] >> shifts) & (2**bits - 1)


def _spread_levels(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> Codes:
    """Non-zero levels, uniform or skewed towards the low ones."""
    skew = 1.0 if rng.random() < 0.5 else rng.uniform(*_SKEW)
    return 1 + np.floor((2**bits - 1) * rng.random(shape) ** skew).astype(np.int64)


def _kept(rng: np.random.Generator, rows: int, cols: int, keep: float) -> NDArray[np.bool_]:
    """The mask of cells that stay, a share ``keep`` on average; the others go one by one, or also in whole lines."""
    parts = np.array([0.0, 0.0, 1.0])
    if rng.random() < 0.5:
        parts = rng.random(3)
        parts /= parts.sum()
    by_row, by_col, by_cell = keep**parts
    return (rng.random((rows, 1)) < by_row) & (rng.random((1, cols)) < by_col) & (rng.random((rows, cols)) < by_cell)
