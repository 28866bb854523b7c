"""Seeds and generators that depend on names, and not on the order in which they are made."""

from __future__ import annotations

import hashlib

import torch


def make_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator that depends on ``seed`` and ``names`` alone, not on the order in which generators are made."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed of 63 bits derived from another seed and from names."""
    told = "\x00".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "little") >> 1
