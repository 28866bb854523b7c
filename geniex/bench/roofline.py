"""The roofline of reads: the operations and memory traffic that they need, and the machine's limits of both."""

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

from geniex.bench.inference_cases import Product
from geniex.emulator import Emulator, map_tensors
from geniex.mapping import Architecture

_VECTORS = 4
"""Vectors of the read whose operations are counted."""
_GEMM = {"cpu": 1024, "cuda": 8192}
"""Size of the matrix product that measures a device's FLOP/s."""
_COPY = {"cpu": 32 << 20, "cuda": 256 << 20}
"""Numbers in the copy that measures a device's bandwidth."""
_TRIALS = 3


class Work(NamedTuple):
    """The least work of some reads."""

    flops: float
    """Floating-point operations of matrix products; elementwise operations are not counted."""
    bytes: float
    """Traffic of programmed arrays, drives and currents, once each; the rest is assumed to stay in cache."""

    def seconds(self, limits: Limits) -> float:
        """The least time: that of the products or that of the traffic, whichever is longer."""
        return max(self.flops / limits.flops_per_second, self.bytes / limits.bytes_per_second)


@dataclass(frozen=True)
class Limits:
    """The measured limits of a device with ``threads`` torch threads."""

    threads: int
    flops_per_second: float
    """Operations per second of a large float32 matrix product."""
    bytes_per_second: float
    """Bytes per second that a large copy reads and writes."""


def measure_limits(device: torch.device, threads: int) -> Limits:
    """The limits by the fastest of a few large products and copies; torch must already use ``threads`` threads."""
    n = _GEMM.get(device.type, 1024)
    a, b, product = (torch.ones(n, n, device=device) for _ in range(3))
    flops = 2 * n**3 / _least_seconds(lambda: torch.mm(a, b, out=product), device)
    source = torch.ones(_COPY.get(device.type, 32 << 20), device=device)
    target = torch.empty_like(source)
    traffic = 2 * source.numel() * source.element_size() / _least_seconds(lambda: target.copy_(source), device)
    return Limits(threads, flops, traffic)


def synchronise(device: torch.device) -> None:
    """Wait until ``device`` has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class TileWork(NamedTuple):
    """The work of one emulator for one array."""

    flops: float
    """Operations per voltage vector."""
    array_bytes: float
    """Size of the programmed tensors that a read touches."""


def count_tile_work(emulator: Emulator, architecture: Architecture, col_tiles: int, like: Tensor) -> TileWork:
    """The work per array, counted on a read of a few vectors by the arrays of ``col_tiles`` column tiles.

    These arrays share the work that depends on the vectors only. ``like`` has the dtype and the device.
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


def count_product_work(product: Product, architecture: Architecture, tile: TileWork, item: int) -> Work:
    """The work of all reads of a product, with ``item`` bytes per number."""
    rows, cols = architecture.tile
    row_tiles, _ = product.grid(architecture)
    tiles, vectors = product.tiles(architecture), product.vectors * product.reads(architecture)
    moved = item * vectors * (row_tiles * rows + tiles * cols)
    return Work(tile.flops * tiles * vectors, tile.array_bytes * tiles + moved)


def count_collapsed_work(product: Product, item: int) -> Work:
    """The work of one matrix product of all weights and inputs, without slices and streams."""
    rows, cols, vectors = product.inputs, product.outputs, product.vectors
    return Work(2 * rows * cols * vectors, item * (rows * cols + vectors * (rows + cols)))


class _Touched(TorchDispatchMode):
    """A dispatch mode that records which of an array's tensors are read by any operation."""

    def __init__(self, array: Any) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._read: set[int] = set()
        map_tensors(array, self._know)

    @property
    def bytes(self) -> int:
        """The size of the tensors that were read."""
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
