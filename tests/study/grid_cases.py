"""Image sets on disk and networks small enough that a study's point takes a fraction of a second."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from geniex.mitigation import prune
from geniex.networks import ImageSet, load_images, load_network, save_network

TRAIN, TEST = 200, 60
IMAGES, CALIBRATION = 40, 24
BASE: dict[str, Any] = {
    "images": IMAGES,
    "calibration_images": CALIBRATION,
    "preset": "geniex-16",
    "crossbar": {"r_wire": 10.0},
    "window": {"r_on": 20e3},
    "emulator": "physics-fast",
    "architecture": {"weight_bits": 6, "input_bits": 5},
}
"""Settings under which the small networks lose some accuracy."""


def write_images(folder: Path) -> Path:
    """scikit-learn's digits, three times as large, in Fashion-MNIST's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, train, count in (("train", True, TRAIN), ("t10k", False, TEST)):
        digits = load_images("digits", train=train)
        large = functional.interpolate(digits.pixels[:count].float(), scale_factor=3.0)
        pixels = functional.pad(large, (2, 2, 2, 2)).mul(255 / 16).round().to(torch.uint8)
        _write_idx(folder / f"{stem}-images-idx3-ubyte.gz", pixels[:, 0])
        _write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", digits.labels[:count].to(torch.uint8))
    return folder


def write_network(name: str, path: Path, root: Path, seed: int = 0) -> Path:
    """A shipped network with a twentieth of its weights, trained a little on the images at ``root``."""
    network = prune(load_network(name), "cf", 0.95).model.train()
    images = load_images("fashion-mnist", train=True, root=root)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _train(network, images)
    kind = name.removesuffix("-0")
    save_network(kind, network.eval(), path, {})
    return path


def _train(network: nn.Module, images: ImageSet) -> None:
    pixels, labels = images.batch(torch.arange(len(images)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(40):
        chosen = torch.randint(len(labels), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(network(pixels[chosen]), labels[chosen]).backward()
        optimizer.step()


def _write_idx(path: Path, values: torch.Tensor) -> None:
    head = bytes([0, 0, 8, values.dim()]) + np.array(values.shape, dtype=">u4").tobytes()
    with gzip.open(path, "wb") as file:
        file.write(head + values.contiguous().numpy().tobytes())
