"""The base of variations: their laws, their composition, and a generator for each tile."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.circuit.checks import check_conductances
from geniex.config import Config, check_seed
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.variation.noise import ReadNoise
from geniex.variation.seeds import make_generator


class Variation(Config, ABC):
    """A change of programmed conductances; subclass it as a frozen dataclass with a ``vary``.

    Laws: ``apply`` keeps shape, dtype and device. No conductance falls below 0 S, and an open cell (0 S) stays open.
    A variation that is switched off changes no bit. The same state of the generator gives the same result.

    Results do not depend on the device, because all draws and arithmetic are done on the CPU in float64.
    """

    @abstractmethod
    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The varied conductances (..., rows, cols) [S] of ``conductances``, float64 on the CPU.

        The caller raises values below 0 S to 0 S.
        """

    def apply(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """Varied conductances (..., rows, cols) [S] of cells that were programmed into ``window``.

        ``generator`` is a CPU generator that draws for all leading dimensions at once; ``vary_tiles`` draws tile by
        tile.
        """
        check_conductances(conductances, *conductances.shape[-2:])
        if generator.device.type != "cpu":
            raise InputError(
                "generator",
                f"one on {generator.device}",
                "it must be a CPU generator, such as torch.Generator(), because all draws are made on the CPU",
            )
        given = conductances.detach().to("cpu", torch.float64)
        varied = self.vary(given, window, generator).clamp(min=0)
        return torch.where(given > 0, varied, 0.0).to(conductances)


@dataclass(frozen=True)
class Variations(Variation):
    """Variations in the order in which they happen, and the noise of reads if there is any.

    Each variation draws from a generator of its own, so that changing or appending one leaves the draws of the others.

    >>> from geniex.variation import FiniteStates
    >>> window = ConductanceWindow(r_on=100e3, on_off=6.0)
    >>> binary = Variations((FiniteStates(2),))
    >>> binary.apply(torch.tensor([[3e-6, 7e-6]]), window, torch.Generator())
    tensor([[1.6667e-06, 1.0000e-05]])
    """

    steps: tuple[Variation, ...] = ()
    """Variations from first to last, e.g. states, programming, faults, drift."""
    read_noise: ReadNoise | None = None
    """Noise added to the currents of every read; it is not part of ``apply``."""

    def __post_init__(self) -> None:
        steps = self.steps
        if (
            isinstance(steps, str)
            or not isinstance(steps, Sequence)
            or not all(isinstance(s, Variation) for s in steps)
        ):
            raise InputError("steps", repr(steps), "it must be a sequence of Variation objects")
        object.__setattr__(self, "steps", tuple(steps))
        if not isinstance(self.read_noise, ReadNoise | None):
            raise InputError("read_noise", repr(self.read_noise), "it must be a ReadNoise or None")

    def vary(self, conductances: Tensor, window: ConductanceWindow, generator: torch.Generator) -> Tensor:
        """The conductances after all steps, applied one after the other."""
        seed = int(torch.randint(2**62, (), generator=generator))
        for k, step in enumerate(self.steps):
            conductances = step.vary(conductances, window, make_generator(seed, k)).clamp(min=0)
        return conductances


def vary_tiles(
    conductances: Tensor, window: ConductanceWindow, variations: Variation, seed: int, name: str = ""
) -> Tensor:
    """Conductances (..., rows, cols) [S] with each tile varied from a generator of its own.

    The generator's seed is made of ``seed``, the layer's ``name`` and the tile's index, so that a tile's result depends
    on no other tile, nor on order, device or process.
    """
    check_seed(seed)
    check_conductances(conductances, *conductances.shape[-2:])
    varied = torch.empty_like(conductances, device="cpu", requires_grad=False)
    on_cpu = conductances.detach().cpu()
    for index in itertools.product(*map(range, conductances.shape[:-2])):
        varied[index] = variations.apply(on_cpu[index], window, make_generator(seed, name, *index))
    return varied.to(conductances.device)


def draw_normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard normal draws of this shape, float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
