"""Storage of programmed arrays: in half precision in memory, or cached on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geniex import __version__
from geniex.circuit.checks import has_values
from geniex.emulator.base import Emulator, is_cacheable, map_tensors
from geniex.emulator.identity import identify
from geniex.emulator.wrapper import EmulatorWrapper
from geniex.errors import FileFormatError, InputError
from geniex.files import read_tensors, write_tensors

_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Packed:
    """A tensor in half precision, scaled by a power of two for each entry of its first dimension."""

    values: Tensor
    """The tensor over the scale, which keeps it in the range of half precision."""
    scale: Tensor
    """Powers of two (entries, 1, ..., 1)."""


class StoredEmulator(EmulatorWrapper):
    """``emulator`` with its programmed arrays stored in half precision, or cached on disk by their content.

    A read unpacks one part of the tiles after the other and computes in the conductances' precision; only arrays that
    wait for their read are small. float16 rounds each stored number by at most 0.05 %, bfloat16 by 0.4 %. ``bind``
    returns a new wrapper around the bound emulator.

    Args:
        emulator: the emulator whose arrays are stored.
        dtype: torch.float16 or torch.bfloat16; None keeps arrays as they are.
        cache: folder of programmed arrays, created if needed. An array is found again by its conductances, the emulator
            with its binding, and the version of geniex. Damaged files are written anew; nothing is ever deleted.
    """

    def __init__(
        self, emulator: Emulator, *, dtype: torch.dtype | None = None, cache: str | Path | None = None
    ) -> None:
        super().__init__(emulator)
        if dtype is not None and dtype not in _HALVES.values():
            raise InputError("dtype", dtype, f"it must be one of {', '.join(map(str, _HALVES.values()))}, or None")
        if cache is not None and not is_cacheable(emulator):
            allowed = "a cache needs an emulator whose class, settings and tensors determine its arrays (.cacheable)"
            raise InputError("emulator", type(emulator).__name__, allowed)
        self.dtype, self.cache = dtype, None if cache is None else Path(cache)
        if self.cache is not None:
            try:
                self.cache.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    "cache", str(self.cache), f"it must be a folder that can be created ({error})"
                ) from None

    def around(self, emulator: Emulator) -> StoredEmulator:
        """The other ``emulator`` stored in the same way."""
        return self.class_around(StoredEmulator)(emulator, dtype=self.dtype, cache=self.cache)

    @property
    def description(self) -> str:
        """The way in which arrays are stored, and the emulator."""
        how = [] if self.dtype is None else [str(self.dtype).removeprefix("torch.")]
        how += [] if self.cache is None else [f"cached in {self.cache}"]
        return f"stored ({', '.join(how)}): {self.emulator.description}" if how else self.emulator.description

    def settings(self) -> dict[str, Any]:
        """The precision and the cache's folder."""
        dtype = next((name for name, dtype in _HALVES.items() if dtype is self.dtype), None)
        return {"dtype": dtype, "cache": None if self.cache is None else str(self.cache)}

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None
    ) -> StoredEmulator:
        """The emulator ``inner`` stored as ``settings`` say."""
        assert inner is not None
        dtype = None if settings["dtype"] is None else _HALVES[settings["dtype"]]
        return cls(inner, dtype=dtype, cache=settings["cache"])

    def program(self, conductances: Tensor) -> Any:
        """The array of (..., rows, cols) [S], from the cache if it is there; full precision if gradients are wanted."""
        array = self._programmed(conductances)
        return array if self.dtype is None or conductances.requires_grad else map_tensors(array, self._packed)

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A]."""
        return self.emulator.read(self._unpacked(array, voltages.dtype), voltages)

    def response(self, array: Any) -> Tensor | None:
        """The wrapped emulator's response; None in half precision, where it would be kept in full beside the array."""
        return self.emulator.response(array) if self.dtype is None else None

    def _packed(self, tensor: Tensor) -> Packed:
        """``tensor`` in units of about its largest magnitude, as float16 does not resolve conductances in siemens."""
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
        except (FileFormatError, KeyError, StopIteration):  # the file is missing or damaged
            pass
        array = self.emulator.program(conductances)
        tensors: list[Tensor] = []
        map_tensors(array, lambda tensor: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
        write_tensors(path, {str(k): tensor.detach().cpu().contiguous().clone() for k, tensor in enumerate(tensors)})
        return array

    def _filled(self, conductances: Tensor, leaves: Iterator[Tensor]) -> Any:
        """The array of ``conductances`` with the cached tensors, in the structure of one programmed tile's array."""
        first = conductances[(slice(0, 1),) * (conductances.dim() - 2)]
        return map_tensors(self.emulator.program(first), lambda _: next(leaves))

    def _key(self, conductances: Tensor) -> str:
        told, _ = identify(self.emulator)  # includes the window, drive and streams that the emulator is bound to
        head: dict[str, Any] = {"geniex": __version__, "emulator": told, "dtype": str(conductances.dtype)}
        hashed = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        hashed.update(str(tuple(conductances.shape)).encode())
        hashed.update(conductances.detach().cpu().contiguous().numpy().tobytes())
        return hashed.hexdigest()[:40]
