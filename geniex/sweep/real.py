"""Levels that a real network puts on crossbars: bit slices of its weights and bit streams of its activations.

The network is the shipped fashion-cnn; its activations are those of the first training images of Fashion-MNIST. Both
become levels as on a 16-bit accelerator (``geniex.mapping``). The magnitudes of W+ and W- in fixed point are cut into
slices, which lie side by side; the inputs in fixed point are cut into streams. A draw first picks one of the layers,
all equally likely, then one of its tiles.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from geniex.mapping import Architecture, ConvGeometry, TileLayout, im2col
from geniex.mapping.fixed_point import choose_frac_bits, to_input_integers, to_weight_magnitudes
from geniex.mapping.slicing import to_digits, to_stream_levels
from geniex.networks import load_images, load_network
from geniex.sweep.strategies import Codes

NETWORK, IMAGES = "fashion-cnn", "fashion-mnist"
_COUNT = 64
"""Number of images that the activations come from."""
_WORD_BITS = 16
_ATTEMPTS = 8
"""Inputs that are tried until one is not all zero in the tile's rows."""


class Place(NamedTuple):
    """The layer and the row tile from which a tile of codes comes."""

    layer: int
    row_tile: int


class _Layer(NamedTuple):
    weight: Tensor
    """Weight matrix (outputs, inputs)."""
    inputs: Tensor
    """Input vectors (vectors, inputs), at least 0."""


def network_codes(rng: np.random.Generator, rows: int, cols: int, bits: int) -> tuple[Codes, Place]:
    """The codes (rows, cols) of one tile of one layer, and the place that they come from."""
    layer = int(rng.integers(len(_layers())))
    tiles = _tiles(layer, rows, cols, bits)
    row_tile = int(rng.integers(len(tiles)))
    return tiles[row_tile, rng.integers(tiles.shape[1])].copy(), Place(layer, row_tile)


def network_levels(rng: np.random.Generator, rows: int, bits: int, place: Place | None) -> Codes:
    """The levels (rows,) of one stream of one input of the layer at ``place``; None stands for a drawn layer."""
    if place is None:
        layer = int(rng.integers(len(_layers())))
        place = Place(layer, int(rng.integers(-(-_layers()[layer].weight.shape[1] // rows))))
    inputs, arch = _layers()[place.layer].inputs, Architecture(stream_bits=bits)
    frac_bits = choose_frac_bits(inputs.max().item(), arch.input_bits)
    streams = np.zeros((1, rows), dtype=np.int64)
    for _ in range(_ATTEMPTS):
        own = inputs[rng.integers(len(inputs)), place.row_tile * rows :][:rows]
        digits = to_stream_levels(to_input_integers(own, arch, frac_bits), arch, passes=1)[0]
        digits = digits[digits.any(-1)]
        if len(digits):
            streams = nn.functional.pad(digits, (0, rows - len(own))).long().numpy()
            break
    return streams[rng.integers(len(streams))]


@lru_cache(maxsize=64)
def _tiles(layer: int, rows: int, cols: int, bits: int) -> Codes:
    """All tiles of a layer, (row tiles, other tiles, rows, cols)."""
    weight = _layers()[layer].weight
    # Where the slices of a whole word do not fit side by side on a tile, the word gets fewer bits.
    arch = Architecture(tile=(rows, cols), slice_bits=bits, weight_bits=min(_WORD_BITS, 1 + bits * cols))
    magnitudes = to_weight_magnitudes(weight, arch, choose_frac_bits(weight.abs().max().item(), arch.weight_bits))
    layout = TileLayout(arch, inputs=weight.shape[1], outputs=weight.shape[0])
    return layout.place(to_digits(magnitudes, bits, arch.slices)).flatten(1, 2).long().numpy()


@cache
def _layers() -> tuple[_Layer, ...]:
    """The convolutions and linear layers of the network, with the inputs that they get from the images."""
    network = load_network(NETWORK)
    images, _ = load_images(IMAGES, train=True).batch(torch.arange(_COUNT))
    seen: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[module] = inputs[0]

    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return tuple(_Layer(layer.weight.detach().flatten(1), _vectors(layer, seen[layer])) for layer in layers)


def _vectors(layer: nn.Module, x: Tensor) -> Tensor:
    """The input vectors (vectors, inputs) that multiply the weight matrix of ``layer`` when its input is ``x``."""
    return im2col(x, ConvGeometry.of(layer))[0].flatten(0, 1) if isinstance(layer, nn.Conv2d) else x
