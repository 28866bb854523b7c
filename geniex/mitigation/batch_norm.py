"""Batch norms refitted to crossbars: running statistics are taken again from the inputs that crossbars give them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mitigation.forward_calls import Call, Reached, evaluate_only, record_calls, run_until_reached
from geniex.mitigation.sums import PairedSums
from geniex.simulator.observe_inputs import Calibration, add_hooks

_Norm = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def refit_batch_norm(model: nn.Module, data: Calibration) -> nn.Module:
    """A copy of ``model`` whose batch norms have the means and unbiased variances of their inputs on ``data``.

    Each norm is fitted after the norms before it. On the same data every norm of the copy therefore sees inputs with
    exactly its running mean and variance. All batches count as one, so that the batch size makes no difference. One
    batch takes one forward pass; several batches take another pass for each norm, up to that norm. A norm that is
    called more than once has the statistics of all its calls, and a norm that is never called keeps its own.

    Args:
        model: a float network or a converted one.
        data: a batch of inputs, a mapping of keywords, a loader of batches, or a function that runs the model.

    Raises:
        InputError: the model has no batch norm with running statistics, or a channel of a norm has fewer than two
            values.
    """
    refitted = copy.deepcopy(model)
    norms = _batch_norms(refitted)
    if not norms:
        raise InputError("model", "no batch norm with running statistics", "convert the network with fold=False")
    with evaluate_only(refitted):
        calls, counts, seen = _first_pass(refitted, norms, data)
        if len(calls) > 1 or max(counts[0].values(), default=0) > 1:
            for name in dict.fromkeys(name for count in counts for name in count):
                seen[name] = _moments(refitted, norms[name], calls, [count[name] for count in counts])
                seen[name].put(norms[name])
    for name, moments in seen.items():
        if moments.sums.count < 2:
            raise InputError(
                "data",
                f"one value for each channel of {name!r}",
                "variances need at least two values: give more inputs",
            )
    return refitted


def has_batch_norms(model: nn.Module) -> bool:
    """Whether ``model`` has a batch norm with running statistics."""
    return bool(_batch_norms(model))


def _batch_norms(model: nn.Module) -> dict[str, _Norm]:
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _Norm)}
    return {name: norm for name, norm in norms.items() if norm.track_running_stats}


class _Moments:
    """The moments of each channel over all inputs of a norm that were added."""

    def __init__(self) -> None:
        self.calls, self.sums = 0, PairedSums()

    def add(self, x: Tensor) -> None:
        """Add an input (batch, channels, ...) of a norm."""
        values = x.detach().double().movedim(1, -1).flatten(0, -2)
        self.sums.add(values, values)
        self.calls += 1

    def put(self, norm: _Norm) -> None:
        """Make the moments the running statistics of ``norm``, unless there are too few values for a variance."""
        if self.sums.count < 2:
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        norm.running_mean.copy_(self.sums.given)
        norm.running_var.copy_(self.sums.squares / (self.sums.count - 1))
        norm.num_batches_tracked.fill_(self.calls)


def _first_pass(
    model: nn.Module, norms: dict[str, _Norm], data: Calibration
) -> tuple[list[Call], list[Counter[str]], dict[str, _Moments]]:
    """The calls that ``data`` makes, how often each call runs each norm, and the norms' moments in the first call.

    Norms are fitted while the first call runs. If it is the only call and runs each norm once, the fit is complete:
    every norm has then seen all its inputs, after the norms before it were fitted.
    """
    calls: list[Call] = []
    counts: list[Counter[str]] = []
    seen: dict[str, _Moments] = {}

    def begin(module: nn.Module, args: object, kwargs: object) -> None:
        counts.append(Counter())

    def watch(name: str) -> Callable[..., None]:
        def hook(norm: _Norm, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            if not counts:
                raise InputError("data", "a function that runs a part of the model", "it must call the model itself")
            counts[-1][name] += 1
            if len(counts) == 1 and name not in seen:
                seen[name] = _Moments()
                seen[name].add(_input(args, kwargs))
                seen[name].put(norm)

        return hook

    with add_hooks([(model, "pre", begin), *((norm, "pre", watch(name)) for name, norm in norms.items())]):
        record_calls(model, data, calls)
    return calls, counts, seen


def _moments(model: nn.Module, norm: _Norm, calls: list[Call], counts: list[int]) -> _Moments:
    """The moments of the inputs of ``norm`` in all ``calls``; ``counts`` says how often each call runs it."""
    moments = _Moments()
    for call, count in zip(calls, counts, strict=True):
        last = moments.calls + count

        def hook(norm: _Norm, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], last: int = last) -> None:
            moments.add(_input(args, kwargs))
            if moments.calls == last:
                raise Reached

        if count:
            with add_hooks([(norm, "pre", hook)]):
                run_until_reached(model, call)
    return moments


def _input(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    return args[0] if args else kwargs["input"]
