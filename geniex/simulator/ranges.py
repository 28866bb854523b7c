"""What a matrix's inputs look like in calibration, and the ranges chosen from it."""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit.validate import has_values
from geniex.errors import InputError


class InputStatistics:
    """Collects the vectors that a matrix is multiplied with: their range, and bounded samples of them.

    The samples are uniform over all that was added and the same for the same seed.

    >>> seen = InputStatistics()
    >>> seen.add(torch.tensor([[0.0, 2.0], [1.0, 0.5]]))
    >>> seen.count, seen.low, seen.high
    (4, 0.0, 2.0)
    """

    count: int
    """Values added."""
    low: float
    """Smallest value; infinity before any."""
    high: float
    """Largest value; minus infinity before any."""
    vectors: Tensor
    """A sample of whole vectors (at most ``max_vectors``, inputs), on the CPU."""
    values: Tensor
    """A sample of single values (at most ``max_values``,), float64, on the CPU."""

    def __init__(self, *, max_vectors: int = 512, max_values: int = 65536, seed: int = 0) -> None:
        self.max_vectors, self.max_values = max_vectors, max_values
        self.count, self.low, self.high = 0, float("inf"), float("-inf")
        self.values = torch.empty(0, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(seed)
        self._value_keys, self._vector_keys = torch.empty(0), torch.empty(0)

    def add(self, vectors: Tensor) -> None:
        """Take in ``vectors`` (count, inputs)."""
        if not isinstance(vectors, Tensor) or vectors.dim() != 2 or not vectors.is_floating_point():
            raise InputError("vectors", getattr(vectors, "shape", type(vectors)), "floating (count, inputs)")
        if self.count and vectors.shape[1] != self.vectors.shape[1]:
            raise InputError("vectors", tuple(vectors.shape), f"those before had {self.vectors.shape[1]} inputs")
        if not has_values(vectors):
            raise InputError("vectors", "a tensor without values", "statistics need numbers")
        if vectors.numel() == 0:
            return
        vectors = vectors.detach()
        low, high = (float(end) for end in torch.aminmax(vectors))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise InputError("calibration", "NaN or infinity", "every input of a layer must be finite")
        if not self.count:
            self.vectors = vectors.new_empty(0, vectors.shape[1], device="cpu")
        self.count += vectors.numel()
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._vector_keys, self.vectors = self._sampled(vectors, self._vector_keys, self.vectors, self.max_vectors)
        self._value_keys, self.values = self._sampled(vectors.flatten(), self._value_keys, self.values, self.max_values)

    @property
    def non_negative(self) -> bool:
        """Whether no negative value was ever seen."""
        return self.count > 0 and self.low >= 0

    @property
    def largest(self) -> float:
        """The largest magnitude; 0 before any."""
        return max(-self.low, self.high) if self.count else 0.0

    def _sampled(self, new: Tensor, keys: Tensor, kept: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """The ``limit`` rows of ``kept`` and ``new`` with the smallest random keys: a uniform sample of all."""
        drawn = torch.rand(len(new), generator=self._generator)
        first = torch.topk(drawn, min(limit, len(new)), largest=False, sorted=False).indices
        all_keys = torch.cat([keys, drawn[first]])
        rows = torch.cat([kept, new[first.to(new.device)].to(kept)])
        best = torch.topk(all_keys, min(limit, len(all_keys)), largest=False).indices
        return all_keys[best], rows[best]
