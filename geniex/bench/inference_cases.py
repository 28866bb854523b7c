"""The layers, networks and settings that ``geniex bench inference`` times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from geniex.mapping import Architecture
from geniex.networks import load_network

KERNEL, PADDING = 3, 1
"""Kernel size and padding of the convolutions, whose outputs have the size of their inputs."""


@dataclass(frozen=True)
class Layer:
    """One layer of random weights."""

    name: str
    inputs: int
    """Number of input features or channels."""
    outputs: int
    side: int | None
    """Side of the maps of a 3x3 convolution; None for a linear layer."""
    batches: tuple[int, ...]
    """Batch sizes: the first is for all settings, the others show how the time grows."""

    def __str__(self) -> str:
        if self.side is None:
            return f"Linear {self.inputs}->{self.outputs}"
        return f"Conv2d {self.inputs}->{self.outputs} {KERNEL}x{KERNEL} on {self.side}x{self.side}"

    def module(self, seed: int) -> nn.Module:
        """The layer with random weights from ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.side is None:
                return nn.Linear(self.inputs, self.outputs).eval()
            return nn.Conv2d(self.inputs, self.outputs, KERNEL, padding=PADDING).eval()

    def draw(self, batch: int, signed: bool, seed: int) -> Tensor:
        """Random inputs: normal, or the positive part of that, as after a ReLU."""
        shape = () if self.side is None else (self.side, self.side)
        x = torch.randn(batch, self.inputs, *shape, generator=torch.Generator().manual_seed(seed))
        return x if signed else x.clamp(min=0)


@dataclass(frozen=True)
class Network:
    """A whole network; the signs of its layers' inputs follow from the network itself."""

    name: str
    shape: tuple[int, int, int]
    """Channels, height and width of an image."""
    batches: tuple[int, ...] = (1,)
    """Batch sizes, as for a layer."""

    def __str__(self) -> str:
        return f"{self.name} on {self.shape[1]}x{self.shape[2]}"

    def module(self, seed: int) -> nn.Module:
        """The shipped network, or ResNet-18 with random weights from ``seed``."""
        return _resnet18(seed) if self.name == "resnet18" else load_network(self.name)

    def draw(self, batch: int, signed: bool, seed: int) -> Tensor:
        """Random images with uniform pixels in 0 .. 1, or in -1 .. 1 if ``signed``."""
        x = torch.rand(batch, *self.shape, generator=torch.Generator().manual_seed(seed))
        return 2 * x - 1 if signed else x


Workload = Layer | Network

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Layer("linear", 256, 64, None, (32,)),
        Layer("conv", 64, 64, 16, (1, 4, 16)),
        Network("fashion-cnn", (1, 28, 28), (1, 4, 16)),
        Network("resnet18", (3, 32, 32)),
    )
}
"""Workloads by the name that the command takes."""


def _resnet18(seed: int) -> nn.Module:
    """torchvision's ResNet-18 with the usual stem for CIFAR's small images: 3x3, stride 1, no pooling."""
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = resnet18(num_classes=10)
        network.conv1 = nn.Conv2d(3, 64, KERNEL, padding=PADDING, bias=False)
        network.maxpool = nn.Identity()
    return network.eval()


@dataclass(frozen=True)
class Case:
    """A workload with its number formats, tiles and inputs."""

    workload: Workload
    batch: int
    tile: int
    """Rows and columns of a tile."""
    bits: int
    """Bits of weights and inputs, sign included."""
    slice_bits: int
    stream_bits: int
    signed: bool
    """Whether the workload's inputs have a sign."""

    def __str__(self) -> str:
        numbers = f"{self.bits}-bit, slices/streams {self.slice_bits}/{self.stream_bits}"
        return f"{self.workload}, batch {self.batch}, {self.tile}x{self.tile} tiles, {numbers}, {self.inputs}"

    @property
    def inputs(self) -> str:
        """The range of the inputs in words."""
        return "signed" if self.signed else ">= 0"

    def architecture(self, lossless: bool = False) -> Architecture:
        """The architecture with PUMA's converters and accumulator; ranges of weights and inputs set the fraction bits.

        ``lossless`` has an ADC that never clips, an accumulator that never wraps, and no offset to remove.
        """
        exact = {"adc_bits": None, "accumulator_bits": None, "offset": "analog_difference"}
        return Architecture.puma(
            tile=(self.tile, self.tile),
            weight_bits=self.bits,
            input_bits=self.bits,
            weight_frac_bits=None,
            input_frac_bits=None,
            slice_bits=self.slice_bits,
            stream_bits=self.stream_bits,
            **(exact if lossless else {}),
        )


class Product(NamedTuple):
    """One matrix product of a network."""

    inputs: int
    outputs: int
    vectors: int
    """Input vectors of the product in one pass over the network."""
    signed: bool
    """Whether any of these vectors has a negative entry."""

    def grid(self, architecture: Architecture) -> tuple[int, int]:
        """The numbers of row tiles and column tiles."""
        rows, outputs = architecture.tile[0], architecture.outputs_per_tile
        return math.ceil(self.inputs / rows), math.ceil(self.outputs / outputs)

    def tiles(self, architecture: Architecture) -> int:
        """The number of arrays: ``architecture.arrays`` for each tile, which is two for differential weights."""
        return architecture.arrays * math.prod(self.grid(architecture))

    def reads(self, architecture: Architecture) -> int:
        """The voltage vectors with which an array is read for one input vector: its streams, in one pass or two.

        Inputs without a sign need no second pass and, in two's complement, no stream of signs.
        """
        if self.signed:
            return architecture.streams * architecture.passes
        return architecture.streams - (architecture.streaming == "twos_complement")

    def tile_vectors(self, architecture: Architecture) -> int:
        """The number of arrays times the voltage vectors that each array reads; streams that are all zero count too."""
        return self.tiles(architecture) * self.reads(architecture) * self.vectors


def observe_products(model: nn.Module, x: Tensor) -> list[Product]:
    """The products in ``model``'s linear and convolution layers for the inputs ``x``."""
    found: list[Product] = []

    def watch(module: nn.Linear | nn.Conv2d, args: tuple[Tensor, ...], out: Tensor) -> None:
        weight = module.weight.flatten(1)
        signed = bool((args[0] < 0).any())
        found.append(Product(weight.shape[1], weight.shape[0], out.numel() // weight.shape[0], signed))

    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    hooks = [layer.register_forward_hook(watch) for layer in layers]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def keep_few_vectors(layer: nn.Linear | nn.Conv2d, x: Tensor, count: int) -> tuple[nn.Module, Tensor]:
    """A linear layer with the weight matrix of ``layer``, and the first ``count`` input vectors of that matrix."""
    if isinstance(layer, nn.Conv2d):
        x = functional.unfold(x, layer.kernel_size, padding=PADDING).transpose(1, 2).flatten(0, 1)
    weight = layer.weight.flatten(1)
    linear = nn.Linear(weight.shape[1], weight.shape[0]).to(weight).eval()
    linear.load_state_dict({"weight": weight, "bias": layer.bias})
    return linear, x[:count]


def list_cases(
    workloads: Iterable[Workload],
    sizes: tuple[int, ...],
    slices: tuple[tuple[int, int], ...],
    narrow: tuple[tuple[int, int], ...],
    signs: tuple[bool, ...],
) -> Iterator[Case]:
    """The cases of every workload; some of them occur more than once.

    Layers run with 16 bits at all ``slices`` and with 8 bits at the ``narrow`` ones, on tiles of the base size. At the
    first slices they also run with the other signs, batches and sizes. Networks run with 8 bits at the first slices.
    """
    base, first, sign = choose_base_size(sizes), slices[0], signs[0]
    for workload in workloads:
        batch = workload.batches[0]
        if isinstance(workload, Network):
            yield from (Case(workload, count, base, 8, *first, signed=False) for count in workload.batches)
            continue
        yield from (Case(workload, batch, base, 16, *each, signed=sign) for each in slices)
        yield from (Case(workload, batch, base, 16, *first, signed=each) for each in signs)
        yield from (Case(workload, batch, base, 8, *each, signed=sign) for each in narrow)
        yield from (Case(workload, count, base, 16, *first, signed=sign) for count in workload.batches)
        yield from (Case(workload, batch, size, 16, *first, signed=sign) for size in sizes)


def choose_base_size(sizes: tuple[int, ...]) -> int:
    """The tile size on which everything is measured: 64 if it is among ``sizes``, else the first."""
    return 64 if 64 in sizes else sizes[0]
