"""The forward calls that calibration data make of a model, kept so that they can be made again, layer after layer.

What is fitted layer by layer needs the data once for each layer. Loaders shuffle, generators are read once, and a
function may draw its inputs: the calls' arguments are therefore kept, and every pass sees the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from geniex.errors import InputError
from geniex.simulator.calibrate import Calibration, for_a_while, run_calibration

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of one forward call, by position and by keyword."""


class Reached(Exception):  # it ends a pass and is no error
    """A pass has seen all that it looks for."""


def forward_calls(model: nn.Module, data: Calibration, calls: list[Call] | None = None) -> list[Call]:
    """The calls that ``data`` makes of ``model``, which runs on them; ``calls`` is filled as they come.

    Raises:
        InputError: ``data`` is nothing that a model can be run on, or does not call the model.
    """
    kept: list[Call] = [] if calls is None else calls

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append((args, kwargs))

    # Before hooks of the model's own, which will change the arguments again when the call is made again.
    with for_a_while([model.register_forward_pre_hook(keep, prepend=True, with_kwargs=True)]):
        run_calibration(model, data, "data")
    if not kept:
        raise InputError("data", type(data).__name__, "it must give the model at least one batch of inputs")
    return kept


def run_until_reached(model: Callable[..., Any], call: Call) -> None:
    """Make one call, which a hook may end by raising ``Reached``."""
    args, kwargs = call
    with suppress(Reached):
        model(*args, **kwargs)


@contextmanager
def evaluated(*models: nn.Module) -> Iterator[None]:
    """The models in evaluation mode for a while, then each module in the mode that it had."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
