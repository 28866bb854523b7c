"""Data in the forms that users have, read as calls of a model for calibration, accuracy, training and remapping."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from geniex.errors import InputError
from geniex.simulator.arguments import Arguments
from geniex.simulator.replace import unwrap

Data = Tensor | tuple[Any, ...] | Mapping[str, Any] | Arguments | Iterable[Any] | Callable[[nn.Module], object]
"""One batch, several batches, or a function that runs the model it is given; ``read_batches`` states the rules."""
LabelledData = tuple[Any, ...] | Mapping[str, Any] | Iterable[Any]
"""One batch with labels, or several such batches; ``read_labelled_batches`` states the rules."""

_TAKEN = (
    "it must be a tensor, a tuple or a mapping (one batch), a list, DataLoader or other iterable of such batches, or a"
    " function that runs the model it is given"
)
_LABELLED = (
    "it must be one batch with labels, (inputs, labels) or a mapping with 'labels', or a list, DataLoader or other"
    " iterable of such batches"
)


class Labelled(NamedTuple):
    """One batch: the arguments of the model's call, and the labels where the batch has some."""

    inputs: Arguments
    labels: Any


def read_batches(data: Data, model: nn.Module | None, name: str = "calibration") -> Iterator[Labelled]:
    """Each batch of ``data`` as a call of ``model``, with labels where it has some; functions are not read.

    ==========================  ========================================================================================
    data                        what it means
    ==========================  ========================================================================================
    a tensor                    one batch: ``model(x)``
    a tuple                     one batch: as many of its elements are arguments as ``forward`` has positional
                                parameters without default (all tensors for ``*args``); the next element is the labels,
                                and whatever follows is left out
    a mapping                   one batch: ``model(**batch)``; "labels" is left out unless ``forward`` takes it
    (mapping, labels)           one batch: ``model(**mapping)``
    any other iterable          several batches of these kinds, in which a list counts as a tuple
    ==========================  ========================================================================================

    Where ``forward`` requires several arguments, a list or tuple in the place of the first one holds them all:
    ((x1, x2), labels). Arguments with a default are given by name, in a mapping. A mapping may be of any class, such as
    those that tokenisers return.

    Args:
        data: inputs in one of the forms of the table.
        model: its ``forward`` says which elements are arguments; None stands for a model that requires one argument.
        name: the name of the caller's argument, for errors.

    Raises:
        InputError: there is no batch, or a batch cannot be understood.
    """
    return _batches(data, model, name, labelled=False)


def read_labelled_batches(
    data: LabelledData, model: nn.Module | None, name: str = "loader"
) -> Iterator[tuple[Arguments, Tensor]]:
    """Each batch of ``data`` as a call of ``model``, and its labels as a tensor.

    The rules are those of ``read_batches``, with two exceptions. With ``*args`` the last element is the labels. A list
    with a tensor among its elements, such as a DataLoader's single batch, is one batch, because a tensor alone has no
    labels.

    Raises:
        InputError: there is no batch, a batch has no labels, or a batch cannot be understood.
    """
    if callable(data) and not isinstance(data, Iterable):
        raise InputError(name, f"a {type(data).__name__}", _LABELLED)
    if isinstance(data, list) and any(isinstance(item, Tensor) for item in data):
        data = tuple(data)
    for inputs, labels in _batches(data, model, name, labelled=True):
        if labels is None:
            raise InputError(name, f"a batch without labels ({_told(inputs)})", _LABELLED)
        yield inputs, torch.as_tensor(labels)


def is_function(data: object) -> TypeGuard[Callable[[nn.Module], object]]:
    """Whether ``data`` is a function that runs the model itself."""
    return callable(data) and not isinstance(data, (Tensor, Iterable, nn.Module, type))


def _batches(data: Data, model: nn.Module | None, name: str, *, labelled: bool) -> Iterator[Labelled]:
    signature, count = _signature(model), 0
    for batch in _top_level(data, name):
        count += 1
        yield _read(batch, signature, model, name, labelled=labelled)
    if not count:
        raise InputError(name, f"a {type(data).__name__} without a batch", _TAKEN)


class _Signature(NamedTuple):
    whole: inspect.Signature | None
    """Signature of ``forward``; None where it is unknown, and one argument is assumed."""
    required: int
    most: int | None
    """Most positional arguments; None is any number."""
    names: frozenset[str] | None
    """Keywords that ``forward`` takes; None is any."""


def _signature(model: nn.Module | None) -> _Signature:
    try:
        whole = None if model is None else inspect.signature(unwrap(model).forward)
    except (TypeError, ValueError):  # the signature is unknown, as for scripted modules
        whole = None
    if whole is None:
        return _Signature(None, 1, 1, None)
    parameters = list(whole.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    many = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    keywords = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = None if keywords else frozenset(p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY)
    return _Signature(whole, required, None if many else len(positional), names)


def _top_level(data: Data, name: str) -> Iterator[Any]:
    """The batches in ``data``, which may itself be one batch."""
    if isinstance(data, (Tensor, tuple, Mapping, Arguments)):
        yield data
        return
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise InputError(name, type(data).__name__, "a data set gives single examples: wrap it in a DataLoader")
    if isinstance(data, (str, bytes, nn.Module)) or not isinstance(data, Iterable):
        raise InputError(name, f"a {type(data).__name__}", _TAKEN)
    if isinstance(data, list):
        _check_alike(data, name)
    yield from data


def _check_alike(batches: list[Any], name: str) -> None:
    """Raise ``InputError`` where the elements of a list differ in kind: they are probably the parts of one batch."""

    def form(batch: Any) -> tuple[Any, ...]:
        if isinstance(batch, Tensor):
            return (Tensor, batch.dim(), batch.is_floating_point())
        return (Mapping if isinstance(batch, Mapping) else type(batch),)

    for batch in batches:
        if form(batch) != form(batches[0]):
            allowed = "a list must hold batches of one kind: write one batch, such as (inputs, labels), as a tuple"
            raise InputError(name, f"a list of {_kind(batches[0])} and {_kind(batch)}", allowed)


def _read(batch: Any, signature: _Signature, model: nn.Module | None, name: str, *, labelled: bool) -> Labelled:
    if isinstance(batch, Arguments):
        return Labelled(batch, None)
    if isinstance(batch, Tensor):
        read = Labelled(Arguments((batch,)), None)
    elif isinstance(batch, Mapping):
        read = _of_mapping(batch, signature)
    elif isinstance(batch, (tuple, list)) and batch:
        read = _of_sequence(tuple(batch), signature, name, labelled=labelled)
    else:
        raise InputError(name, f"a batch that is {_kind(batch)}", _TAKEN)
    if signature.whole is not None:
        try:
            signature.whole.bind(*read.inputs.args, **read.inputs.kwargs)
        except TypeError as error:
            takes = f"{type(model).__name__}.forward{signature.whole} cannot take it ({error})"
            raise InputError(name, f"a batch of {_told(read.inputs)}", f"{takes}; {_TAKEN}") from None
    return read


def _of_mapping(batch: Mapping[str, Any], signature: _Signature) -> Labelled:
    kept = {key: value for key, value in batch.items() if key != "labels" or _takes_labels(signature)}
    return Labelled(Arguments((), kept), batch.get("labels"))


def _takes_labels(signature: _Signature) -> bool:
    return signature.names is not None and "labels" in signature.names


def _of_sequence(batch: tuple[Any, ...], signature: _Signature, name: str, *, labelled: bool) -> Labelled:
    first, rest = batch[0], batch[1:]
    if isinstance(first, Mapping):
        if len(rest) > 1:
            raise InputError(name, f"a batch of {_kind(batch)}", "only labels may follow a mapping")
        read = _of_mapping(first, signature)
        return Labelled(read.inputs, rest[0] if rest else read.labels)
    several = signature.required > 1 or (signature.most is None and signature.required == 0)
    if isinstance(first, (tuple, list)) and several:
        return Labelled(Arguments(tuple(first)), rest[0] if rest else None)
    if signature.most is None:
        tensors = next((k for k, item in enumerate(batch) if not isinstance(item, Tensor)), len(batch))
        count = min(tensors, len(batch) - labelled)
        return Labelled(Arguments(batch[:count]), next(iter(batch[count:]), None))
    count = max(signature.required, 1)
    over = len(batch) - count
    if over > 1 and signature.most > count:
        takes = (
            f"forward requires {count} and takes up to {signature.most} arguments, so the meaning of these is unclear:"
        )
        raise InputError(name, f"a batch of {_kind(batch)}", f"{takes} give arguments by name, in a mapping")
    return Labelled(Arguments(batch[:count]), batch[count] if over > 0 else None)


def _told(inputs: Arguments) -> str:
    parts = [_kind(value) for value in inputs.args] + [f"{key}={_kind(value)}" for key, value in inputs.kwargs.items()]
    return ", ".join(parts) or "nothing"


def _kind(value: Any) -> str:
    """A description of ``value`` for a message."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, (tuple, list)) and value:
        return f"a {type(value).__name__} of {', '.join(_kind(item) for item in value)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(str, value))}"
    return "empty" if isinstance(value, (tuple, list)) else f"a {type(value).__name__}"
