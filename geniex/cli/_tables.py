"""Tables on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from geniex.bench.additions import Bar

_WIDTH = 160
"""Width in columns if the output is no terminal: wide enough that tables in files and pipes are not cut."""


def make_report_console() -> Console:
    """The console on standard output for a report's tables."""
    console = Console()
    return console if console.is_terminal else Console(width=max(_WIDTH, console.width))


def make_bars_table(bars: Sequence[Bar], title: str = "The project's bars, on one core") -> Table:
    """The table of measured figures and the limits that they have to meet."""
    table = make_plain_table(title, ("figure",), ("measured", "bar", ""))
    table.add_column("worst case", ratio=1)
    for bar in bars:
        limit = f"{'>=' if bar.at_least else '<='} {bar.limit:g} {bar.unit}".rstrip()
        table.add_row(bar.figure, format_number(bar.measured, ".3g"), limit, _verdict(bar), escape(_short(bar.where)))
    return table


def _verdict(bar: Bar) -> str:
    if bar.met is None:
        return f"[dim]{bar.partial if bar.measured is not None else 'not measured'}[/dim]"
    return "[green]met[/green]" if bar.met else "[bold red]missed[/bold red]"


def make_plain_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table with columns aligned to the left, then to the right."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def format_number(value: float | None, spec: str, scale: float = 1.0) -> str:
    """``scale * value`` in the format ``spec``, or a dash if there is no value."""
    return "-" if value is None else format(scale * value, spec)


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
