"""Inputs that a model's layers see in calibration, collected by hooks before anything is programmed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from geniex.errors import InputError
from geniex.mapping import Packing
from geniex.simulator.batches import Data, is_function, read_batches
from geniex.simulator.plan import DigitalLayer, PlannedLayer
from geniex.simulator.scales import InputStatistics

Calibration = Data | None
"""Inputs in any form that ``read_batches`` reads, or a function that runs the model it is given.

None stands for no inputs.
"""
_MOST_VECTORS = 2048
"""Most vectors that one image, or one call of a Linear, adds to a matrix's statistics besides the extreme ones."""


def observe_inputs(
    model: nn.Module, plan: Sequence[PlannedLayer | DigitalLayer], calibration: Calibration
) -> tuple[list[PlannedLayer | DigitalLayer], dict[int, list[InputStatistics]]]:
    """The ``plan`` with the map sizes that were seen, and statistics for each matrix of each layer, by the module's id.

    Layers that ``model`` does not call on the calibration inputs have no statistics.
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

    with add_hooks((layer.module, "pre", watched(layer)) for layer in _on_crossbars(plan)):
        run_calibration(model, calibration)
    return _with_sizes(plan, sized), seen


def count_vectors(
    model: nn.Module, plan: Sequence[PlannedLayer | DigitalLayer], example: Data
) -> tuple[list[PlannedLayer | DigitalLayer], dict[int, int], int]:
    """The ``plan`` with the map sizes that were seen, the number of vectors of each layer, and that of the examples.

    The vectors are those that a layer's matrices see for ``example``, by the module's id.
    """
    vectors: dict[int, int] = {}
    sized: dict[int, PlannedLayer] = {}

    def watched(layer: PlannedLayer) -> Callable[..., None]:
        def watch(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
            now = sized[id(module)] = sized.get(id(module), layer).sized(args[0] if args else kwargs["input"])
            packing = now.packing
            count = output.numel() // (packing.groups * packing.outputs * packing.positions)
            vectors[id(module)] = vectors.get(id(module), 0) + count

        return watch

    with add_hooks((layer.module, "post", watched(layer)) for layer in _on_crossbars(plan)):
        examples = run_calibration(model, example, "example")
    if not examples:
        raise InputError(
            "example", f"a {type(example).__name__}", "it must be batches, because their examples are counted"
        )
    return _with_sizes(plan, sized), vectors, examples


def run_calibration(model: nn.Module, calibration: Calibration, name: str = "calibration") -> int:
    """The number of calibration examples that ``model`` has been run on; 0 where a function ran it.

    The rules of ``read_batches`` hold; errors call the inputs ``name``.
    """
    if calibration is None:
        return 0
    with torch.no_grad():
        if is_function(calibration):
            calibration(model)
            return 0
        examples = 0
        for inputs, _ in read_batches(calibration, model, name):
            inputs.run(model)
            sizes = [len(tensor) for tensor in inputs.tensors().values() if tensor.dim()]
            if sizes and not sizes[0]:
                raise InputError(name, "a batch without an example", "every batch must have at least one example")
            examples += next(iter(sizes), 0)
        return examples


def _on_crossbars(plan: Sequence[PlannedLayer | DigitalLayer]) -> list[PlannedLayer]:
    return [layer for layer in plan if isinstance(layer, PlannedLayer)]


def _with_sizes(
    plan: Sequence[PlannedLayer | DigitalLayer], sized: dict[int, PlannedLayer]
) -> list[PlannedLayer | DigitalLayer]:
    return [sized.get(id(layer.module), layer) if isinstance(layer, PlannedLayer) else layer for layer in plan]


def _add(seen: list[InputStatistics], packing: Packing, fields: Tensor, generator: torch.Generator) -> None:
    """Add a sample of the vectors (count, groups * inputs), and those with the least and the greatest value."""
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


def add_hooks(hooks: Iterable[tuple[nn.Module, str, Callable[..., None]]]) -> AbstractContextManager[None]:
    """A context with hooks that take keywords: "pre" sees a module's final input, "post" its first output.

    A module's other pre-hooks run before "pre", and its other forward hooks run after "post".
    """
    return keep_for_a_while(
        module.register_forward_pre_hook(hook, with_kwargs=True)
        if kind == "pre"
        else module.register_forward_hook(hook, with_kwargs=True, prepend=True)
        for module, kind, hook in hooks
    )


@contextmanager
def keep_for_a_while(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """A context for registered hooks, which are removed at its end."""
    registered = list(handles)
    try:
        yield
    finally:
        for handle in registered:
            handle.remove()
