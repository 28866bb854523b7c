"""The console on which reports are printed."""

from __future__ import annotations

from rich.console import Console

_WIDTH = 160
"""Width in columns if the output is no terminal: wide enough that tables in files and pipes are not cut."""


def make_report_console() -> Console:
    """The console on standard output for a report's tables."""
    console = Console()
    return console if console.is_terminal else Console(width=max(_WIDTH, console.width))
