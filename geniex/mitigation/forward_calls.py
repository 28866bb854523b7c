"""The forward calls that calibration data make to a model, recorded so that they can be repeated for each layer.

A fit layer by layer needs the data once for each layer. Loaders shuffle, generators can be read only once, and a
function may draw its inputs at random. The arguments of the calls are therefore kept, and every pass uses them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from geniex.errors import InputError
from geniex.simulator.observe_inputs import Calibration, keep_for_a_while, run_calibration

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of one forward call, positional and by keyword."""


class Reached(Exception):  # it ends a pass and is no error
    """Ends a forward pass early, once a hook has seen all that it needs."""


def record_calls(model: nn.Module, data: Calibration, calls: list[Call] | None = None) -> list[Call]:
    """The calls that ``data`` makes to ``model``, which is run on them; ``calls`` is filled as they come.

    Raises:
        InputError: a model cannot be run on ``data``, or ``data`` does not call the model.
    """
    kept: list[Call] = [] if calls is None else calls

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append((args, kwargs))

    # This hook comes before the model's own, which change the arguments again whenever the call is repeated.
    with keep_for_a_while([model.register_forward_pre_hook(keep, prepend=True, with_kwargs=True)]):
        run_calibration(model, data, "data")
    if not kept:
        raise InputError("data", type(data).__name__, "it must give the model at least one batch of inputs")
    return kept


def run_until_reached(model: Callable[..., Any], call: Call) -> None:
    """Run ``model`` on one call, which a hook may end by raising ``Reached``."""
    args, kwargs = call
    with suppress(Reached):
        model(*args, **kwargs)


@contextmanager
def evaluate_only(*models: nn.Module) -> Iterator[None]:
    """Put the models into evaluation mode temporarily, then restore the mode of each module."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
