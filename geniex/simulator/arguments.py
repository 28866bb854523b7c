"""The arguments of a model's calls, for one batch of examples or for many, and the logits that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from geniex.errors import InputError


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call of a model, for one or more examples.

    The first dimension of every tensor, in tuples, lists and mappings of any depth, is the examples. Scalar tensors,
    and values that are not tensors, belong to the whole call.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: Callable[..., Any]) -> Any:
        """The output of ``model`` for these arguments."""
        return model(*self.args, **self.kwargs)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor in the arguments, by its place: "0" is the first argument, "mask" the one of that name."""
        named = {str(k): value for k, value in enumerate(self.args)} | dict(self.kwargs)
        return dict(_named(named, ""))

    def others(self) -> list[str]:
        """The arguments without their tensors, as text."""
        return [repr((_mapped(self.args, lambda _: ...), _mapped(dict(self.kwargs), lambda _: ...)))]

    @property
    def device(self) -> torch.device:
        """The first tensor's device; the CPU where there is no tensor."""
        return next((tensor.device for tensor in self.tensors().values()), torch.device("cpu"))

    def __len__(self) -> int:
        """The number of examples."""
        counts = {name: len(tensor) for name, tensor in self.tensors().items() if tensor.dim()}
        if len(set(counts.values())) != 1:
            told = ", ".join(f"{name}: {count}" for name, count in counts.items()) or "no tensor"
            raise InputError("batch", told, "the first dimension of every tensor must be the examples")
        return next(iter(counts.values()))

    def __getitem__(self, examples: slice) -> Arguments:
        """The same call for some of the examples."""
        len(self)  # raises where the tensors disagree about the number of examples

        def chosen(tensor: Tensor) -> Tensor:
            return tensor[examples] if tensor.dim() else tensor

        return Arguments(_mapped(self.args, chosen), _mapped(dict(self.kwargs), chosen))

    def copied(self) -> Arguments:
        """The same call with tensors of its own; one that is pickled does not drag all examples with it."""
        return Arguments(_mapped(self.args, torch.clone), _mapped(dict(self.kwargs), torch.clone))

    def split(self, size: int) -> Iterator[Arguments]:
        """Calls for at most ``size`` examples each."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def find_logits(output: Any) -> Tensor:
    """The logits in a model's ``output``: a tensor, or an object with one under "logits", as Hugging Face's outputs."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        raise InputError(
            "model", f"an output of {type(output).__name__}", "it must return logits or an object with .logits"
        )
    return found


class Examples:
    """Many examples, in groups of which each goes through a model in one call; neighbours of one shape share a group.

    >>> x = Examples([Arguments((torch.zeros(shape),)) for shape in ((3, 5), (2, 5), (1, 7))])
    >>> len(x), [len(group) for group in x], [len(part) for part in x[1:].split(3)]
    (6, [5, 1], [3, 1, 1])
    """

    def __init__(self, batches: Iterable[Arguments]) -> None:
        self.groups = _grouped([batch for batch in batches if len(batch)])

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)

    def __iter__(self) -> Iterator[Arguments]:
        return iter(self.groups)

    def __getitem__(self, examples: slice) -> Examples:
        start, stop, step = examples.indices(len(self))
        if step != 1:
            raise InputError("examples", examples, "a slice of examples must have step 1")
        parts, first = list[Arguments](), 0
        for group in self.groups:
            parts.append(group[max(start - first, 0) : max(stop - first, 0)])
            first += len(group)
        return Examples(parts)

    def split(self, size: int) -> Iterator[Arguments]:
        """Calls for at most ``size`` examples each; no call spans two groups."""
        for group in self.groups:
            yield from group.split(size)

    @property
    def device(self) -> torch.device:
        """The first group's device."""
        return self.groups[0].device if self.groups else torch.device("cpu")

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of every group, by group and place."""
        named = ((k, group.tensors()) for k, group in enumerate(self.groups))
        return {f"{k}.{name}": tensor for k, group in named for name, tensor in group.items()}

    def others(self) -> list[str]:
        """The arguments of every group without their tensors, as text."""
        return [text for group in self.groups for text in group.others()]


def _grouped(batches: Sequence[Arguments]) -> tuple[Arguments, ...]:
    runs: list[list[Arguments]] = []
    for batch in batches:
        if runs and _form(runs[-1][0]) == _form(batch):
            runs[-1].append(batch)
        else:
            runs.append([batch])
    return tuple(run[0] if len(run) == 1 else _joined(run) for run in runs)


def _joined(batches: Sequence[Arguments]) -> Arguments:
    """One call for the examples of several calls of one form."""
    columns = zip(*(batch.tensors().values() for batch in batches), strict=True)
    joined = iter([torch.cat(column) if column[0].dim() else column[0] for column in columns])
    first = batches[0]
    return Arguments(_mapped(first.args, lambda _: next(joined)), _mapped(dict(first.kwargs), lambda _: next(joined)))


def _form(batch: Arguments) -> str:
    """The form that calls must share to be joined: structure, shapes of one example, dtypes, and other values."""

    def told(tensor: Tensor) -> tuple[Any, ...]:
        whole_call = () if tensor.dim() else (tensor.item(),)
        return (tuple(tensor.shape[1:]), tensor.dim(), tensor.dtype, tensor.device, *whole_call)

    def other(value: Any) -> Any:
        return value if isinstance(value, (str, int, float, type(None))) else id(value)

    return repr((_mapped(batch.args, told, other), _mapped(dict(batch.kwargs), told, other)))


def _mapped(value: Any, fn: Callable[[Tensor], Any], other: Callable[[Any], Any] = lambda value: value) -> Any:
    """``value`` with ``fn`` applied to each tensor and ``other`` to the other leaves; mappings become dictionaries."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, fn, other) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, fn, other) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(item, fn, other) for item in value)
    return other(value)


def _named(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _named(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (tuple, list)):
        for k, item in enumerate(value):
            yield from _named(item, f"{name}.{k}")
