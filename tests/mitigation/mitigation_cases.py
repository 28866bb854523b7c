"""Small networks, tiles and batches that the tests of mitigation share, and oracles of plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geniex.circuit import Crossbar
from geniex.emulator import Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.mapping import OFFSETS, Architecture
from geniex.mitigation import Batch, Pruned
from geniex.simulator import CrossbarLayer, CrossbarMatrix, convert, find_crossbar_layers

SCHEMES = [
    {"weight_scheme": weights, "offset": offset}
    for weights in ("differential", "offset", "twos_complement")
    for offset in OFFSETS
    if (weights, offset) != ("twos_complement", "analog_difference")
]
ROWS, COLS = 8, 14
ARCH = Architecture(tile=(ROWS, COLS), weight_bits=6, input_bits=6, slice_bits=3, stream_bits=3)
"""Two slices: seven outputs of differential weights on a tile."""
FINE = ARCH.replace(input_bits=24, input_frac_bits=17, stream_bits=4, adc_bits=None, accumulator_bits=None)
"""Inputs of up to 64 that are all but continuous, so that a float network can stand beside; weights are as coarse."""
WIRED = Crossbar(ROWS, COLS, r_wire_row=200.0, r_wire_col=90.0, r_source=300.0)


class ReadIdeal(IdealEmulator):
    """Insists on being read."""

    def response(self, array: Any) -> Any:
        """None."""
        return None


EMULATORS: dict[str, Emulator] = {
    "ideal": IdealEmulator(),
    "read": ReadIdeal(),
    "linear": LinearEmulator(WIRED),
    "physics": SurrogateEmulator("physics-fast", WIRED.replace(r_wire_row=10.0, r_wire_col=4.0)),
}


class Residual(nn.Module):
    """A block with a shortcut, which is a convolution where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, outputs, ...) of (batch, inputs, ...)."""
        y = self.norm1(self.conv1(x)).relu()
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.first, self.second = Residual(4, 4, 1), Residual(4, 9, 2)
        self.head = nn.Linear(9, 4)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 4) of (batch, 2, 6, 6)."""
        return self.head(self.second(self.first(self.stem(images).relu())).mean((2, 3)))


class Repeated(nn.Module):
    """One layer is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(9, 10), nn.Linear(10, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 4) of (batch, 9)."""
        return self.last(self.again(self.again(self.first(x).relu()).relu()).relu())


def vgg() -> nn.Module:
    """Convolutions, batch norms, a pool and two linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(5, 9, 2, bias=False), nn.BatchNorm2d(9), nn.ReLU(inplace=True), nn.Flatten()),
        *(nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)),
    )


def grouped() -> nn.Module:
    """Two groups, then a depthwise convolution, then one without groups."""
    return nn.Sequential(
        *(nn.Conv2d(2, 6, (1, 2), groups=2), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU()),
        *(nn.Conv2d(6, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(10, 4)),
    )


def mlp() -> nn.Module:
    """Three linear layers; the first one's activation works in place."""
    return nn.Sequential(nn.Linear(9, 17), nn.ReLU(inplace=True), nn.Linear(17, 8), nn.Tanh(), nn.Linear(8, 4))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg": vgg,
    "resnet": ResNet,
    "grouped": grouped,
    "mlp": mlp,
    "repeated": Repeated,
}


def network(name: str) -> Any:
    """In evaluation mode, its weights and its batch norms' statistics drawn from one seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = NETWORKS[name]().eval()
        for module in made.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                assert module.num_batches_tracked is not None
                module.num_batches_tracked.fill_(7)  # as after training
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 1.5)
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias, 0, 0.3)
            elif isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.data *= 2  # so that logits differ
    return made


def batch(name: str, count: int = 12) -> Batch:
    """Images and labels for a network."""
    generator = torch.Generator().manual_seed(1)
    shape = (9,) if name in ("mlp", "repeated") else (2, 6, 6)
    images = torch.rand(count, *shape, generator=generator)
    return Batch(images, torch.randint(0, 4, (count,), generator=generator))


def converted(name: str, emulator: str = "linear", arch: Architecture = ARCH, **options: Any) -> Any:
    """A network on crossbars."""
    return convert(network(name), arch, EMULATORS[emulator], calibration=batch(name).images, **options)


def matrices(layer: Any) -> list[CrossbarMatrix]:
    """The layer's."""
    return list(layer.matrices)


def scattered(model: nn.Module, seed: int = 5) -> Any:
    """The model with gains and offsets on every layer's outputs."""
    generator = torch.Generator().manual_seed(seed)
    for layer in find_crossbar_layers(model).values():
        outputs = layer.packing.groups * layer.packing.outputs
        layer.output_gain = 0.5 + torch.rand(outputs, generator=generator)
        layer.bias = nn.Parameter(torch.rand(outputs, generator=generator) - 0.5)
    return model


@torch.no_grad()
def float_network(name: str, model: nn.Module) -> Any:
    """The plain float64 network with the weights that differential crossbars hold, rounded by hand, and gains in them.

    Its layers have the names of the converted model's.
    """
    plain = copy.deepcopy(network(name)).double()
    for at, layer in find_crossbar_layers(model).items():
        module, bits = plain.get_submodule(at), matrices(layer)[0].weight_frac_bits
        top = 2 ** (matrices(layer)[0].architecture.weight_bits - 1) - 1
        module.weight.copy_(torch.round(module.weight * 2.0**bits).clamp(-top, top) * 2.0**-bits)
        if layer.output_gain is not None:
            module.weight.mul_(layer.output_gain.reshape(-1, *[1] * (module.weight.dim() - 1)))
            module.bias = nn.Parameter(layer.bias.detach().double())
    return plain


def rows_of(layer: CrossbarLayer, weight: Tensor) -> Tensor:
    """A torch layer's weight as one row for each output (groups * outputs, inputs of a group)."""
    return weight.detach().flatten(1)


def mask_of(pruned: Pruned, name: str = "0") -> np.ndarray:
    """The mask of a layer's weight."""
    return pruned.masks[f"{name}.weight"].numpy()


class Odd(nn.Module):
    """Two layers and what is between them."""

    def __init__(self, between: Any, inputs: int = 6) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(4, 6), nn.Linear(inputs, 3), between

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3) of (batch, 4)."""
        return functional.log_softmax(self.last(self.between(self.first(x))), dim=-1)
