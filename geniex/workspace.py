"""The limit of the memory that computations take for intermediate results, for machines that have little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from geniex.errors import InputError

_most: int | None = None


@contextmanager
def workspace_limit(most: int) -> Iterator[None]:
    """Within this context, computations hold about ``most`` bytes of intermediate results at once, or fewer.

    Solvers, reads of crossbars and measurements of power work in pieces that fit; one piece is at least one tile with
    one input vector. More pieces take longer, and their results differ by rounding at most. The limit is this
    process's, and does not reach worker processes.

    >>> with workspace_limit(1 << 20):
    ...     workspace_bytes(32 << 20)
    1048576

    Raises:
        InputError: ``most`` is not a whole number of at least 1.
    """
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise InputError("most", repr(most), "it must be a whole number of bytes, at least 1")
    global _most
    before, _most = _most, most
    try:
        yield
    finally:
        _most = before


def workspace_bytes(usual: int) -> int:
    """The bytes of intermediate results to hold at once: ``usual``, or the limit where that is lower."""
    return usual if _most is None else min(usual, _most)
