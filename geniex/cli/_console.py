"""Where reports are printed."""

from __future__ import annotations

from rich.console import Console

_WIDTH = 160
"""Columns where no terminal says how many: a table in a file or a pipe is cut short by nobody."""


def report_console() -> Console:
    """The console for a report's tables, on standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)
