"""The memory that a pass through a converted model takes, found from shapes alone.

The model is copied without its values. The copy runs on fake tensors, which have shapes and sizes only, while
``LiveBytes`` counts the bytes that are alive. The measured code is therefore the code that will run, except that
repeated work is done once (``geniex.simulator.memory.sampled``).

Sizes that depend on values are taken at their largest: a real forward pass on the CPU leaves out streams and word lines
that carry nothing. The memory that kernels and the allocator take for themselves is not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from geniex.simulator.memory.sampled import Meter


@dataclass(frozen=True)
class PassMemory:
    """Peak memory of a pass through a model, beyond its programmed arrays, weights and inputs.

    Only tensors are counted. On the CPU a process grows by more, because the C library's heap keeps gaps between freed
    blocks: by 1.1 to 1.5 times as much where a graph is kept, and by up to four times as much where reads are computed
    again. With ``MALLOC_MMAP_THRESHOLD_=65536`` in the environment (glibc) it grows by hardly more than is counted.
    """

    examples: int
    """Number of examples in the measured batch."""
    bytes: int
    """Peak of a forward pass without gradients [bytes]."""
    bytes_with_gradients: int
    """Peak of a forward and a backward pass [bytes], with gradients of the inputs, and also of the weights of a model
    that was converted with ``trainable=True``."""
    more: float
    """Bytes that each further example adds to ``bytes``."""
    more_with_gradients: float
    """Bytes that each further example adds to ``bytes_with_gradients``."""


class Call:
    """The arguments of a call of a model, without their values."""

    def __init__(self, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> None:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.args, self.kwargs = tree_map_only(Tensor, _on_meta, (tuple(args), kwargs or {}))
        self.examples = len(given[0]) if given and given[0].dim() else 0
        """The size of the first tensor's first dimension; 0 where there is none."""
        self.device = given[0].device if given and not given[0].is_meta else torch.device("cpu")
        self.usable = self.examples > 0 and not any(isinstance(tensor, FakeTensor) for tensor in given)

    def of(self, count: int, gradients: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keywords with ``count`` examples; with ``gradients``, floating-point tensors require them."""

        def made(tensor: Tensor) -> Tensor:
            batched = tensor.dim() and len(tensor) == self.examples
            shape = (count, *tensor.shape[1:]) if batched else tensor.shape
            wanted = gradients and tensor.is_floating_point()
            return torch.empty(shape, dtype=tensor.dtype, device=self.device, requires_grad=wanted)

        return tree_map_only(Tensor, made, (self.args, self.kwargs))


@contextmanager
def record_first_call(model: nn.Module) -> Iterator[list[Call]]:
    """A list that gets the arguments of the first call of ``model`` within the context."""
    calls: list[Call] = []

    def watch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not calls:
            calls.append(Call(args, kwargs))

    handle = model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


class Later:
    """The memory of a pass, which ``find`` finds when it is first asked for, because that takes a second or more."""

    def __init__(self, find: Callable[[], PassMemory | None]) -> None:
        self._find: Callable[[], PassMemory | None] | None = find
        self._found: PassMemory | None = None

    @property
    def value(self) -> PassMemory | None:
        """The pass's memory; None where the model cannot run without values."""
        if self._find is not None:
            self._found, self._find = self._find(), None
        return self._found

    @property
    def found(self) -> PassMemory | None:
        """The pass's memory if it was asked for before, else None."""
        return self._found

    @classmethod
    def known(cls, memory: PassMemory | None) -> Later:
        """``memory`` that has been found already."""
        later = cls(lambda: memory)
        assert later.value is memory  # which drops the function
        return later

    def __deepcopy__(self, memo: object) -> Later:
        return self

    def __reduce__(self) -> Any:
        return Later.known, (self.found,)  # a copy must not spend the time to find it


def measure_pass_memory(made: Callable[[], nn.Module], call: Call | None) -> Later | None:
    """The peak memory of ``call`` on the converted model that ``made`` gives on the meta device.

    It is None if there is no call, or a call without examples.
    """
    if call is None or not call.usable:
        return None
    return Later(lambda: _measured_pass(made, call))


def _measured_pass(made: Callable[[], nn.Module], call: Call) -> PassMemory | None:
    """The peak memory of ``call``; None if the model cannot run without values."""
    one, two = call.examples, 2 * call.examples
    try:
        bare = made()
        with FakeTensorMode(allow_non_fake_inputs=True):
            meter = Meter()
            model = meter.prepared(_copied(bare, lambda tensor: _on_device(tensor, call.device)))
            peaks = [[meter.peak(model, call.of(count, grad), grad) for grad in (False, True)] for count in (one, two)]
    except Exception:  # a model that reads values may fail in any way without them
        return None
    more = [(after - before) / one for before, after in zip(*peaks, strict=True)]
    return PassMemory(one, *peaks[0], *more)


def copy_without_values(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of ``model``, its emulators and its programmed arrays, all on the meta device."""
    return _copied(model, _on_meta, memo)


def _copied(model: nn.Module, change: Callable[[Tensor], Tensor], memo: dict[int, Any] | None = None) -> nn.Module:
    with _Copying(change), torch.no_grad():
        return copy.deepcopy(model, {} if memo is None else memo)


class _Copying(TorchFunctionMode):
    """A mode in which deep copies contain ``change(tensor)`` in place of each tensor."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.clone:  # a parameter's copy holds a clone of its data
            return self.change(args[0])
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = self.change(tensor)
        return memo[id(tensor)]


def _on_meta(tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided:
        return tensor  # sparse tensors have no strides, and are small
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _on_device(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.layout != torch.strided:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
