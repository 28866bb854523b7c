"""How much memory a pass through a converted model takes, found from shapes alone.

The model is copied without its values, and the copy runs on fake tensors, which have shapes and sizes and nothing else,
while ``LiveBytes`` follows what is alive. So the code that is measured is the code that will run; what it does many
times over, it does once (``geniex.simulator.memory.sampled``).

What depends on values is taken at its largest: a forward pass on the CPU leaves out streams and word lines that carry
nothing. What kernels and the allocator take for themselves is not counted.
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

    It counts tensors. On the CPU a process grows by more, because the C library's heap keeps gaps between freed blocks:
    by 1.1 to 1.5 times as much where a graph is kept, and up to four times as much where reads are computed once more.
    With ``MALLOC_MMAP_THRESHOLD_=65536`` in the environment (glibc) it grows by hardly more than is told.
    """

    examples: int
    """Examples of the batch that it is for."""
    bytes: int
    """Peak of a forward pass without gradients."""
    bytes_with_gradients: int
    """Peak of a forward and a backward pass, from inputs that ask for gradients; also from the weights of a model that
    was converted with ``trainable=True``."""
    more: float
    """What each further example adds to ``bytes``."""
    more_with_gradients: float
    """What each further example adds to ``bytes_with_gradients``."""


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
        """Arguments and keywords with ``count`` examples, which ask for ``gradients`` where they can."""

        def made(tensor: Tensor) -> Tensor:
            batched = tensor.dim() and len(tensor) == self.examples
            shape = (count, *tensor.shape[1:]) if batched else tensor.shape
            wanted = gradients and tensor.is_floating_point()
            return torch.empty(shape, dtype=tensor.dtype, device=self.device, requires_grad=wanted)

        return tree_map_only(Tensor, made, (self.args, self.kwargs))


@contextmanager
def record_first_call(model: nn.Module) -> Iterator[list[Call]]:
    """The arguments of the first call of ``model`` within, in a list that is empty until then."""
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
    """The memory of a pass, found by ``find`` when it is first asked for: that takes a second or more."""

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
        """The pass's memory where somebody has asked for it before."""
        return self._found

    @classmethod
    def known(cls, memory: PassMemory | None) -> Later:
        """``memory``, found already."""
        later = cls(lambda: memory)
        assert later.value is memory  # which lets go of the function
        return later

    def __deepcopy__(self, memo: object) -> Later:
        return self

    def __reduce__(self) -> Any:
        return Later.known, (self.found,)  # finding it takes too long to do for a copy


def measure_pass_memory(made: Callable[[], nn.Module], call: Call | None) -> Later | None:
    """The peak memory of ``call`` on the converted model that ``made`` gives on the meta device.

    None where there is no call, or one without examples.
    """
    if call is None or not call.usable:
        return None
    return Later(lambda: _measured_pass(made, call))


def _measured_pass(made: Callable[[], nn.Module], call: Call) -> PassMemory | None:
    """As ``measure_pass_memory``; None where the model cannot run without values."""
    one, two = call.examples, 2 * call.examples
    try:
        bare = made()
        with FakeTensorMode(allow_non_fake_inputs=True):
            meter = Meter()
            model = meter.prepared(_copied(bare, lambda tensor: _on_device(tensor, call.device)))
            peaks = [[meter.peak(model, call.of(count, grad), grad) for grad in (False, True)] for count in (one, two)]
    except Exception:  # what a model does with values, and how it fails without them, is its own affair
        return None
    more = [(after - before) / one for before, after in zip(*peaks, strict=True)]
    return PassMemory(one, *peaks[0], *more)


def copy_without_values(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of ``model``, its emulators and its programmed arrays, all of it on the meta device."""
    return _copied(model, _on_meta, memo)


def _copied(model: nn.Module, change: Callable[[Tensor], Tensor], memo: dict[int, Any] | None = None) -> nn.Module:
    with _Copying(change), torch.no_grad():
        return copy.deepcopy(model, {} if memo is None else memo)


class _Copying(TorchFunctionMode):
    """Within, deep copies have ``change`` of a tensor in its place."""

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
