"""The number of bytes of tensors that are alive, followed operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Account:
    """The bytes that are alive, and their peak."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0

    def add(self, count: int) -> None:
        """Count ``count`` more bytes, or fewer."""
        self.now += count
        self.peak = max(self.peak, self.now)

    def pulse(self, count: int) -> None:
        """Count ``count`` bytes that are taken and given back at once, which only the peak sees."""
        self.peak = max(self.peak, self.now + count)


class LiveBytes(TorchDispatchMode):
    """The bytes of the tensors that operations make, each counted for as long as something holds it, e.g. autograd.

    Storages are counted, so that views and tensors that existed before cost nothing. Fake tensors count with the bytes
    that they stand for. Memory that a kernel allocates for itself is not seen.

    >>> with LiveBytes() as live:
    ...     x = torch.zeros(100)
    ...     y = (x + 1).sum()
    >>> live.account.now, live.account.peak
    (404, 804)
    """

    def __init__(self) -> None:
        super().__init__()
        self.account = Account()
        """The account on which new tensors are counted."""
        self.operations = 0
        """The counted bytes of each storage that is alive."""
        self._held: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        for tensor in _strided((args, kwargs)):
            self._hold(tensor, 0)
        out = func(*args, **(kwargs or {}))
        for tensor in _strided(out):
            self._hold(tensor, tensor.untyped_storage().nbytes())
        return out

    @contextmanager
    def apart(self) -> Iterator[Account]:
        """An account of its own for the tensors that are made within the context."""
        before, self.account = self.account, Account()
        try:
            yield self.account
        finally:
            self.account = before

    def of(self, tensors: Iterable[Tensor]) -> int:
        """Bytes of the storages of ``tensors`` that were counted."""
        keys = {tensor.untyped_storage()._cdata for tensor in tensors}
        return sum(self._held[key][1] for key in keys if key in self._held)

    def _hold(self, tensor: Tensor, count: int) -> None:
        storage = tensor.untyped_storage()
        key, account = storage._cdata, self.account
        if key in self._held:
            return

        def freed(_: object) -> None:
            self._held.pop(key, None)
            account.add(-count)

        self._held[key] = weakref.ref(storage, freed), count
        account.add(count)


def _strided(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided)
