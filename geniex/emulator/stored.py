"""Programmed arrays kept small in memory, or for good on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geniex import __version__
from geniex.circuit.validate import has_values
from geniex.emulator.base import Emulator, map_tensors
from geniex.emulator.circuit import CircuitEmulator
from geniex.emulator.ideal import IdealEmulator
from geniex.emulator.identity import identity
from geniex.emulator.linear import LinearEmulator
from geniex.emulator.surrogate import SurrogateEmulator
from geniex.errors import FileFormatError, InputError
from geniex.files import read_tensors, write_tensors
from geniex.mapping import Architecture

_KNOWN = (IdealEmulator, LinearEmulator, SurrogateEmulator, CircuitEmulator)
_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Packed:
    """A tensor in half precision, each entry of its first dimension with a power of two that keeps it in range."""

    values: Tensor
    scale: Tensor


class StoredEmulator(Emulator):
    """``emulator`` with its programmed arrays stored in half precision, or cached on disk by their content.

    What is read is computed in the conductances' precision, one part of the tiles after the other: only what waits is
    small. float16 rounds each stored number by at most 0.05 %, bfloat16 by 0.4 %.

    Args:
        emulator: what does the work.
        dtype: torch.float16 or torch.bfloat16; None keeps arrays as they are.
        cache: folder of programmed arrays, made where it is not there. An array is found again by its conductances,
            the emulator and this version of geniex; files that are damaged are written anew. Nothing is ever deleted.
    """

    def __init__(
        self, emulator: Emulator, *, dtype: torch.dtype | None = None, cache: str | Path | None = None
    ) -> None:
        if not isinstance(emulator, Emulator):
            raise InputError("emulator", type(emulator).__name__, "it must be an Emulator")
        if dtype is not None and dtype not in _HALVES:
            raise InputError("dtype", dtype, f"it must be one of {', '.join(map(str, _HALVES))}, or None")
        if cache is not None and type(emulator) not in _KNOWN:
            names = ", ".join(kind.__name__ for kind in _KNOWN)
            raise InputError("emulator", type(emulator).__name__, f"what decides its arrays is known only of {names}")
        self.emulator, self.dtype, self.cache = emulator, dtype, None if cache is None else Path(cache)
        self.name = emulator.name
        if self.cache is not None:
            self.cache.mkdir(parents=True, exist_ok=True)

    @property
    def worker(self) -> Emulator:
        """The emulator whose arrays are stored."""
        return self.emulator.worker

    @property
    def deterministic(self) -> bool:
        """The emulator's."""
        return self.emulator.deterministic

    @property
    def tile(self) -> tuple[int, int] | None:
        """The emulator's."""
        return self.emulator.tile

    @property
    def floats_per_read(self) -> int:
        """The emulator's."""
        return self.emulator.floats_per_read

    def check(self, architecture: Architecture) -> None:
        """As the emulator does."""
        self.emulator.check(architecture)

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Moves the emulator's weights."""
        self.emulator.move(function)

    def program(self, conductances: Tensor) -> Any:
        """The array of (..., rows, cols) [S], from the cache where it is there; in full where gradients are wanted."""
        array = self._programmed(conductances)
        return array if self.dtype is None or conductances.requires_grad else map_tensors(array, self._packed)

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A]."""
        return self.emulator.read(self._unpacked(array, voltages.dtype), voltages)

    def response(self, array: Any) -> Tensor | None:
        """The emulator's; None in half precision, where it would be kept in full beside what is stored."""
        return self.emulator.response(array) if self.dtype is None else None

    def _packed(self, tensor: Tensor) -> Packed:
        """In units of about its largest magnitude: conductances alone are below what float16 resolves."""
        if tensor.numel() == 0:
            return Packed(tensor.to(self.dtype), tensor.new_ones(len(tensor), *[1] * (tensor.dim() - 1)))
        largest = tensor.abs().flatten(1).amax(1).reshape(-1, *[1] * (tensor.dim() - 1))
        scale = torch.exp2(largest.clamp(min=torch.finfo(tensor.dtype).tiny).log2().ceil())
        return Packed((tensor / scale).to(self.dtype), scale)

    def _unpacked(self, array: Any, dtype: torch.dtype) -> Any:
        if self.dtype is None:
            return array
        return map_tensors(array, lambda packed: packed.values.to(dtype) * packed.scale.to(dtype), leaf=Packed)

    def _programmed(self, conductances: Tensor) -> Any:
        if self.cache is None or conductances.requires_grad or not has_values(conductances):
            return self.emulator.program(conductances)
        path = self.cache / f"{self._key(conductances)}.safetensors"
        try:
            found = read_tensors(path)
            leaves = iter([found[str(k)].to(conductances.device) for k in range(len(found))])
            return self._filled(conductances, leaves)
        except (FileFormatError, KeyError, StopIteration):  # not there, or damaged
            pass
        array = self.emulator.program(conductances)
        tensors: list[Tensor] = []
        map_tensors(array, lambda tensor: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
        write_tensors(path, {str(k): tensor.detach().cpu().contiguous().clone() for k, tensor in enumerate(tensors)})
        return array

    def _filled(self, conductances: Tensor, leaves: Iterator[Tensor]) -> Any:
        """The array of ``conductances`` with the tensors that were kept: one tile tells what it is made of."""
        first = conductances[(slice(0, 1),) * (conductances.dim() - 2)]
        return map_tensors(self.emulator.program(first), lambda _: next(leaves))

    def _key(self, conductances: Tensor) -> str:
        told, _ = identity(self.emulator)
        head: dict[str, Any] = {"geniex": __version__, "emulator": told, "dtype": str(conductances.dtype)}
        if isinstance(self.emulator, SurrogateEmulator):  # what it was bound to, beyond its settings
            head["binary"] = getattr(self.emulator.surrogate, "binary", False)
        hashed = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        hashed.update(str(tuple(conductances.shape)).encode())
        hashed.update(conductances.detach().cpu().contiguous().numpy().tobytes())
        return hashed.hexdigest()[:40]
