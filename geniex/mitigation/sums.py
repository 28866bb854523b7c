"""Means of vectors that come in batches, and sums of squares and products about these means."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class PairedSums:
    """Statistics (outputs,) of all pairs of ``given`` and ``wanted`` vectors that were added."""

    count: int = 0
    """Number of pairs."""
    given: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Mean of the given vectors."""
    wanted: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Mean of the wanted vectors."""
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Sum of squares of the given vectors about their mean."""
    products: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Sum of products of given and wanted vectors about their means."""

    def add(self, given: Tensor, wanted: Tensor) -> None:
        """Add pairs of vectors (count, outputs), float64."""
        new = len(given)
        if not new:
            return
        means = given.mean(0), wanted.mean(0)
        centred, target = given - means[0], wanted - means[1]
        squares, products = centred.square().sum(0), (centred * target).sum(0)
        if not self.count:
            self.count, (self.given, self.wanted) = new, means
            self.squares, self.products = squares, products
            return
        total = self.count + new  # Chan, Golub and LeVeque: sums about the common mean
        apart = means[0] - self.given, means[1] - self.wanted
        share = self.count * new / total
        self.squares = self.squares + squares + apart[0].square() * share
        self.products = self.products + products + apart[0] * apart[1] * share
        self.given, self.wanted = self.given + apart[0] * (new / total), self.wanted + apart[1] * (new / total)
        self.count = total
