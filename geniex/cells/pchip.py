"""Monotone cubic interpolation by piecewise cubics without overshoot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Cubic = tuple[float, float, float, float]
"""The coefficients of a + b x + c x^2 + d x^3, in the signed distance x from a base point."""


def slopes(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """Slopes of a strictly increasing table at its points (Fritsch and Butland, SIAM J. Sci. Stat. Comput. 5, 1984).

    They are weighted harmonic means of the neighbouring secants, and at the ends the slope of a parabola. This is
    SciPy's ``PchipInterpolator``, except that the slope at an end is at least a quarter of the secant there.
    """
    h = [b - a for a, b in pairwise(x)]
    m = [(b - a) / width for (a, b), width in zip(pairwise(y), h, strict=True)]
    inner = [
        3 * (h0 + h1) / ((2 * h1 + h0) / m0 + (h1 + 2 * h0) / m1)
        for (h0, h1), (m0, m1) in zip(pairwise(h), pairwise(m), strict=True)
    ]
    return [_end(h[0], h[1], m[0], m[1]), *inner, _end(h[-1], h[-2], m[-1], m[-2])]


def bases(x: Sequence[float]) -> list[float]:
    """The base point of each piece of ``cubics``: the end nearer to 0, so that no terms cancel at 0."""
    return [x[0], *(b if b <= 0 else a for a, b in pairwise(x)), x[-1]]


def cubics(x: Sequence[float], y: Sequence[float]) -> list[Cubic]:
    """Strictly increasing pieces through a strictly increasing table: below it, in each of its intervals, above it.

    The pieces outside the table are the tangents at its ends.
    """
    d = slopes(x, y)
    pieces: list[Cubic] = [(y[0], d[0], 0.0, 0.0)]
    for k in range(len(x) - 1):
        h = x[k + 1] - x[k]
        m = (y[k + 1] - y[k]) / h
        third = (d[k] + d[k + 1] - 2 * m) / h**2
        if x[k + 1] <= 0:
            pieces.append((y[k + 1], d[k + 1], (2 * d[k + 1] + d[k] - 3 * m) / h, third))
        else:
            pieces.append((y[k], d[k], (3 * m - 2 * d[k] - d[k + 1]) / h, third))
    return [*pieces, (y[-1], d[-1], 0.0, 0.0)]


def _end(h0: float, h1: float, m0: float, m1: float) -> float:
    return max(((2 * h0 + h1) * m0 - h0 * m1) / (h0 + h1), m0 / 4)
