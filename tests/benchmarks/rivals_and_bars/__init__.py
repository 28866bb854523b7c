"""Rival solvers and the project's bars, which ``geniex bench`` takes up in a checkout (``geniex.bench.extension``)."""

from rivals_and_bars.extension import Checkout


def extension() -> Checkout:
    """The extension of this checkout."""
    return Checkout()
