"""How fast reads could be: the products and the traffic they need, and what the machine has of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from geniex.emulator import Emulator, map_tensors
from geniex.mapping import Architecture
from geniex.study.bench.inference_cases import Product

_VECTORS = 4
"""Of a counted read."""
_GEMM = {"cpu": 1024, "cuda": 8192}
"""Size of the product that a machine's FLOPs are measured with."""
_COPY = {"cpu": 32 << 20, "cuda": 256 << 20}
"""Numbers of the copy that its bandwidth is measured with."""
_TRIALS = 3


class Work(NamedTuple):
    """What some reads need at least."""

    flops: float
    """Of matrix products; elementwise work is none."""
    bytes: float
    """Of programmed arrays once, drives once and currents once; the rest stays in cache."""

    def seconds(self, limits: Limits) -> float:
        """The least time: that of the products or that of the traffic."""
        return max(self.flops / limits.flops_per_second, self.bytes / limits.bytes_per_second)


@dataclass(frozen=True)
class Limits:
    """What a device has, on so many threads."""

    threads: int
    flops_per_second: float
    """Of a large float32 matrix product."""
    bytes_per_second: float
    """Read and written by a large copy."""


def measured_limits(device: torch.device, threads: int) -> Limits:
    """The best of a few large products and copies; torch must already use ``threads``."""
    n = _GEMM.get(device.type, 1024)
    a, b, product = (torch.ones(n, n, device=device) for _ in range(3))
    flops = 2 * n**3 / _least_seconds(lambda: torch.mm(a, b, out=product), device)
    source = torch.ones(_COPY.get(device.type, 32 << 20), device=device)
    target = torch.empty_like(source)
    traffic = 2 * source.numel() * source.element_size() / _least_seconds(lambda: target.copy_(source), device)
    return Limits(threads, flops, traffic)


def synchronise(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class TileWork(NamedTuple):
    """What one emulator needs for one array."""

    flops: float
    """A voltage vector."""
    array_bytes: float
    """Of the programmed tensors that a read touches."""


def tile_work(emulator: Emulator, architecture: Architecture, col_tiles: int, like: Tensor) -> TileWork:
    """Counted on a read of a few vectors by the arrays of ``col_tiles``, which share what depends on the vectors alone.

    ``like`` has the dtype and the device.
    """
    rows, cols = architecture.tile
    window = architecture.window
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(architecture.arrays, col_tiles, rows, cols, generator=generator)
    array = emulator.program((window.g_off + (window.g_on - window.g_off) * share).to(like))
    voltages = (architecture.v_max * torch.rand(_VECTORS, 1, 1, rows, generator=generator)).to(like)
    with _Touched(array) as touched, FlopCounterMode(display=False) as counter:
        emulator.read(array, voltages)
    arrays = architecture.arrays * col_tiles
    return TileWork(counter.get_total_flops() / (_VECTORS * arrays), touched.bytes / arrays)


def product_work(product: Product, architecture: Architecture, tile: TileWork, item: int) -> Work:
    """All reads of a product of ``item`` bytes a number."""
    rows, cols = architecture.tile
    row_tiles, _ = product.grid(architecture)
    tiles, vectors = product.tiles(architecture), product.vectors * product.reads(architecture)
    moved = item * vectors * (row_tiles * rows + tiles * cols)
    return Work(tile.flops * tiles * vectors, tile.array_bytes * tiles + moved)


def collapsed_work(product: Product, item: int) -> Work:
    """One product of all weights and inputs as they are."""
    rows, cols, vectors = product.inputs, product.outputs, product.vectors
    return Work(2 * rows * cols * vectors, item * (rows * cols + vectors * (rows + cols)))


class _Touched(TorchDispatchMode):
    """Remembers which of an array's tensors any operation reads."""

    def __init__(self, array: Any) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._read: set[int] = set()
        map_tensors(array, self._know)

    @property
    def bytes(self) -> int:
        """Of those tensors."""
        return sum(self._sizes[key] for key in self._read)

    def _know(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_iter((args, kwargs)):
            if isinstance(value, Tensor) and (key := value.untyped_storage().data_ptr()) in self._sizes:
                self._read.add(key)
        return func(*args, **(kwargs or {}))


def _least_seconds(action: Callable[[], object], device: torch.device) -> float:
    action()
    taken = []
    for _ in range(_TRIALS):
        synchronise(device)
        began = time.perf_counter()
        action()
        synchronise(device)
        taken.append(time.perf_counter() - began)
    return min(taken)
