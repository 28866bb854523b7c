"""Noise of reads, added to an emulator's currents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geniex.circuit import shared_matmul
from geniex.config import Config, check_number, check_seed, warn_unit
from geniex.emulator import Emulator, EmulatorWrapper
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.variation.seeds import derive_seed

_USUAL_CURRENT = 1e-3
"""Current in ampere above which a warning asks for the unit: the noise of sensing is far below in any array."""


@dataclass(frozen=True)
class ReadNoise(Config):
    """Gaussian noise of column currents, drawn anew at every read."""

    relative: float = 0.0
    """Standard deviation of each cell's conductance over that conductance, independent from cell to cell. The noise
    reaches the column as if there were no wires, with a variance of relative^2 sum_i (V_i G_ij)^2."""
    current: float = 0.0
    """Standard deviation of the sensing itself, ampere. It does not depend on what is read and remains at V = 0."""

    def __post_init__(self) -> None:
        check_number("relative", self.relative, low=0.0)
        check_number("current", self.current, low=0.0, unit="A")
        if self.current > _USUAL_CURRENT:
            warn_unit("current", self.current, "A", "columns carry microamperes: is this in nano- or microampere?")

    @property
    def off(self) -> bool:
        """Whether there is no noise."""
        return not (self.relative or self.current)


@dataclass(frozen=True)
class NoisyArray:
    """The wrapped emulator's array, and the data for the cells' noise."""

    array: Any
    squares: Tensor | None
    """Squared conductances (..., rows, cols) [S^2]; None where cells are not noisy."""


class NoisyEmulator(EmulatorWrapper):
    """``emulator`` with noise on every current it reads.

    Each device has one generator, which starts from ``seed`` and continues from read to read. The same reads in the
    same order thus give the same currents; other reads (another batch size, another device) have other noise of the
    same distribution. Gradients are the wrapped emulator's, with the noise as a constant. Wrap a ``StoredEmulator``
    inside a ``NoisyEmulator``, not the other way round.

    ``bind`` returns a noisy emulator with generators of its own, which start from ``seed``. Reading one conversion thus
    leaves the noise of every other conversion, and of the emulator that was given, where it was. All layers of one
    ``convert`` with the same architecture share one bound emulator, so that each continues the draws of the others.
    Matrices that are built one by one from one noisy emulator all see the same draws, and so do layers of one
    ``convert`` with different architectures. Where that matters, give each of them a ``NoisyEmulator`` with another
    ``seed``, or all the same bound emulator, ``noisy.bind(architecture)``; ``vary`` gives every matrix its own seed.

    >>> from geniex.emulator import IdealEmulator
    >>> noisy = NoisyEmulator(IdealEmulator(), ReadNoise(relative=0.1))
    >>> array = noisy.program(torch.full((2, 1), 1e-5))
    >>> noisy.read(array, torch.zeros(2))  # no current, no noise
    tensor([0.])
    """

    def __init__(self, emulator: Emulator, noise: ReadNoise, seed: int = 0) -> None:
        super().__init__(emulator)
        if not isinstance(noise, ReadNoise):
            raise InputError("noise", repr(noise), "it must be a ReadNoise")
        check_seed(seed)
        self.noise, self.seed = noise, seed
        self.name = f"noisy {emulator.name}"
        self._generators: dict[torch.device, torch.Generator] = {}
        self._architecture: Architecture | None = None

    @property
    def description(self) -> str:
        """The noise, and the emulator that it is added to, in words."""
        parts = [f"{100 * self.noise.relative:g} % per cell"] if self.noise.relative else []
        parts += [f"{self.noise.current:g} A per column"] if self.noise.current else []
        noise = f"{', '.join(parts)}, seed {self.seed}" if parts else "none"
        return f"read noise ({noise}): {self.emulator.description}"

    @property
    def deterministic(self) -> bool:
        """Whether the noise is off and the wrapped emulator is deterministic."""
        return self.noise.off and self.emulator.deterministic

    @property
    def floats_per_read(self) -> int:
        """The wrapped emulator's workspace, the variances and the draws."""
        return self.emulator.floats_per_read + (2 * self.tile[1] if self.tile is not None else 0)

    def bind(self, architecture: Architecture) -> NoisyEmulator:
        """The bound emulator with noise that starts from ``seed``; raises the errors of the wrapped one's ``bind``."""
        if self._architecture == architecture:
            return self
        bound = self.rewrap(self.emulator.bind(architecture))
        bound._architecture = architecture
        return bound

    def around(self, emulator: Emulator) -> NoisyEmulator:
        """The other ``emulator`` with the same noise, which starts from ``seed``."""
        return self.class_around(NoisyEmulator)(emulator, self.noise, self.seed)

    def with_noise_seed(self, seed: int | None = None) -> NoisyEmulator:
        """The emulator with its own generators, which start from ``seed``; None keeps the present seed."""
        inner = self.emulator.with_noise_seed(None if seed is None else derive_seed(seed, "inner"))
        fresh = self.rewrap(inner)
        fresh.seed, fresh._architecture = self.seed if seed is None else seed, self._architecture
        return fresh

    def without_noise(self, array: NoisyArray) -> tuple[Emulator, Any]:
        """The wrapped emulator and its array."""
        return self.emulator.without_noise(array.array)

    def settings(self) -> dict[str, Any]:
        """The noise and its seed, without the generators' states."""
        return {"noise": self.noise.to_dict(), "seed": self.seed}

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None
    ) -> NoisyEmulator:
        """The emulator ``inner`` with the noise in ``settings``, which starts from its seed."""
        assert inner is not None
        return cls(inner, ReadNoise.from_dict(settings["noise"]), settings["seed"])

    def restart(self) -> None:
        """Start the noise again from ``seed``."""
        self._generators.clear()

    def program(self, conductances: Tensor) -> NoisyArray:
        """The wrapped emulator's array of (..., rows, cols) [S], and the data for the cells' noise."""
        squares = conductances.detach().square() if self.noise.relative else None
        return NoisyArray(self.emulator.program(conductances), squares)

    def read(self, array: NoisyArray, voltages: Tensor) -> Tensor:
        """Noisy column currents (..., cols) [A]."""
        currents = self.emulator.read(array.array, voltages)
        if self.noise.off:
            return currents
        scale: Tensor | float = self.noise.current
        if array.squares is not None:
            variance = shared_matmul(voltages.detach().square(), array.squares) * self.noise.relative**2
            scale = (variance + self.noise.current**2).sqrt()
        draws = torch.randn(
            currents.shape, generator=self._generator(currents), dtype=currents.dtype, device=currents.device
        )
        return currents + draws * scale

    def response(self, array: NoisyArray) -> Tensor | None:
        """The wrapped emulator's response if the noise is off; otherwise None."""
        return self.emulator.response(array.array) if self.noise.off else None

    def _generator(self, like: Tensor) -> torch.Generator:
        if like.device not in self._generators:
            self._generators[like.device] = torch.Generator(like.device).manual_seed(self.seed)
        return self._generators[like.device]
