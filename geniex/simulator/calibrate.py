"""What a model's layers see on calibration inputs, collected by hooks before anything is programmed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mapping import GroupPacking
from geniex.simulator.plan import PlannedLayer
from geniex.simulator.ranges import InputStatistics

Calibration = Tensor | Iterable[Tensor] | Callable[[nn.Module], object] | None
"""A batch of inputs, or several, or a function that runs the model that it is given."""
_MOST_VECTORS = 2048
"""Vectors of one image and matrix that go into the statistics, beside those with the extreme values."""


def calibrated(
    model: nn.Module, layers: Sequence[PlannedLayer], calibration: Calibration
) -> dict[int, list[InputStatistics]]:
    """Statistics for each matrix of each layer that ``model`` calls on the calibration inputs, by the module's id."""
    seen: dict[int, list[InputStatistics]] = {}
    generator = torch.Generator().manual_seed(0)

    def watched(layer: PlannedLayer) -> Callable[..., None]:
        packing = layer.packing

        def watch(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            given = args[0] if args else kwargs["input"]
            if id(module) not in seen:
                seen[id(module)] = [InputStatistics() for _ in packing.shapes]
            for x in layer.pieces(given.detach()):
                _add(seen[id(module)], packing, layer.kind.fields_of(module, x), generator)

        return watch

    with _hooked((layer.module, "pre", watched(layer)) for layer in layers):
        run_calibration(model, calibration)
    return seen


def counted(model: nn.Module, layers: Sequence[PlannedLayer], example: Tensor) -> dict[int, int]:
    """How many vectors each layer's matrices see for the batch ``example``, by the module's id."""
    vectors: dict[int, int] = {}

    def watched(layer: PlannedLayer) -> Callable[..., None]:
        channels = layer.packing.groups * layer.packing.outputs

        def watch(module: nn.Module, args: Any, output: Tensor) -> None:
            vectors[id(module)] = vectors.get(id(module), 0) + output.numel() // channels

        return watch

    with _hooked((layer.module, "post", watched(layer)) for layer in layers):
        run_calibration(model, example)
    return vectors


def run_calibration(model: nn.Module, calibration: Calibration) -> None:
    """Run ``model`` on the calibration inputs, if there are any."""
    if calibration is None:
        return
    with torch.no_grad():
        if callable(calibration) and not isinstance(calibration, Tensor):
            calibration(model)
            return
        for batch in [calibration] if isinstance(calibration, Tensor) else calibration:
            if not isinstance(batch, Tensor):
                raise InputError(
                    "calibration", type(batch).__name__, "it must be a batch of inputs, or several, or a function"
                )
            model(batch)


def _add(seen: list[InputStatistics], packing: GroupPacking, fields: Tensor, generator: torch.Generator) -> None:
    """Add vectors (count, groups * inputs): a sample of them, and those with the least and the greatest value."""
    if not fields.numel():
        return
    drawn = None
    if len(fields) > _MOST_VECTORS:
        drawn = torch.randperm(len(fields), generator=generator)[:_MOST_VECTORS].to(fields.device)
    for statistics, part in zip(seen, packing.split(fields), strict=True):
        if drawn is None:
            statistics.add(part)
            continue
        flat = part.reshape(-1)
        extremes = torch.stack([flat.argmin(), flat.argmax()]) // part.shape[1]
        statistics.add(part[torch.cat([drawn, extremes])])


@contextmanager
def _hooked(hooks: Iterable[tuple[nn.Module, str, Callable[..., None]]]) -> Iterator[None]:
    handles = [
        module.register_forward_pre_hook(hook, with_kwargs=True)
        if kind == "pre"
        else module.register_forward_hook(hook)
        for module, kind, hook in hooks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
