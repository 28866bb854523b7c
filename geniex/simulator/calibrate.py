"""What a model's layers see on calibration inputs, collected by hooks before anything is programmed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from geniex.errors import InputError
from geniex.mapping import Packing, Unrolling
from geniex.simulator.plan import DigitalLayer, PlannedLayer
from geniex.simulator.ranges import InputStatistics

Calibration = Tensor | Iterable[Tensor] | Callable[[nn.Module], object] | None
"""A batch of inputs, or several, or a function that runs the model that it is given."""
_MOST_VECTORS = 2048
"""Vectors of one image and matrix that go into the statistics, beside those with the extreme values."""


def calibrated(
    model: nn.Module, plan: Sequence[PlannedLayer | DigitalLayer], calibration: Calibration
) -> tuple[list[PlannedLayer | DigitalLayer], dict[int, list[InputStatistics]]]:
    """The ``plan`` for the maps that there are, and statistics for each matrix of each layer, by the module's id.

    Of layers that ``model`` does not call on the calibration inputs there are none.
    """
    seen: dict[int, list[InputStatistics]] = {}
    sized: dict[int, PlannedLayer] = {}
    generator = torch.Generator().manual_seed(0)

    def watched(layer: PlannedLayer) -> Callable[..., None]:
        def watch(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            given = args[0] if args else kwargs["input"]
            now = sized[id(module)] = sized.get(id(module), layer).sized(given)
            if id(module) not in seen:
                seen[id(module)] = [InputStatistics() for _ in now.packing.shapes]
            for x in now.pieces(given.detach()):
                _add(seen[id(module)], now.packing, now.vectors_of(x), generator)

        return watch

    with hooked((layer.module, "pre", watched(layer)) for layer in _on_crossbars(plan)):
        run_calibration(model, calibration)
    return _with_sizes(plan, sized), seen


def counted(
    model: nn.Module, plan: Sequence[PlannedLayer | DigitalLayer], example: Tensor
) -> tuple[list[PlannedLayer | DigitalLayer], dict[int, int]]:
    """The ``plan`` for the maps that there are, and how many vectors each layer's matrices see for ``example``."""
    vectors: dict[int, int] = {}
    sized: dict[int, PlannedLayer] = {}

    def watched(layer: PlannedLayer) -> Callable[..., None]:
        def watch(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
            now = sized[id(module)] = sized.get(id(module), layer).sized(args[0] if args else kwargs["input"])
            packing = now.packing
            channels = packing.groups * packing.outputs
            count = output.numel() // (channels * packing.positions if isinstance(packing, Unrolling) else channels)
            vectors[id(module)] = vectors.get(id(module), 0) + count

        return watch

    with hooked((layer.module, "post", watched(layer)) for layer in _on_crossbars(plan)):
        run_calibration(model, example)
    return _with_sizes(plan, sized), vectors


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


def _on_crossbars(plan: Sequence[PlannedLayer | DigitalLayer]) -> list[PlannedLayer]:
    return [layer for layer in plan if isinstance(layer, PlannedLayer)]


def _with_sizes(
    plan: Sequence[PlannedLayer | DigitalLayer], sized: dict[int, PlannedLayer]
) -> list[PlannedLayer | DigitalLayer]:
    return [sized.get(id(layer.module), layer) if isinstance(layer, PlannedLayer) else layer for layer in plan]


def _add(seen: list[InputStatistics], packing: Packing, fields: Tensor, generator: torch.Generator) -> None:
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


def hooked(hooks: Iterable[tuple[nn.Module, str, Callable[..., None]]]) -> AbstractContextManager[None]:
    """Hooks with keywords, "pre" or "post" the forward pass of modules, for a while."""
    return for_a_while(
        module.register_forward_pre_hook(hook, with_kwargs=True)
        if kind == "pre"
        else module.register_forward_hook(hook, with_kwargs=True)
        for module, kind, hook in hooks
    )


@contextmanager
def for_a_while(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that were registered, removed in the end."""
    registered = list(handles)
    try:
        yield
    finally:
        for handle in registered:
            handle.remove()
