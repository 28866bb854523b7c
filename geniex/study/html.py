"""Report pages of studies: a self-contained HTML page with tables, figures and configuration; tables as Markdown."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .8rem; text-align: right }
th { border-bottom: 2px solid #444 } td { border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
img { max-width: 100%; margin: 1rem 0 } pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: 12px }
"""


def make_html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; its cells are plain text, which is escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def write_page(
    path: Path, title: str, notes: Sequence[str], tables: Sequence[str], figures: Sequence[Path], details: Any
) -> None:
    """Write the page to ``path`` with its PNG ``figures`` embedded and ``details`` (JSON-ready) at the end."""
    images = [
        f'<img alt="{figure.stem}" src="data:image/png;base64,{base64.b64encode(figure.read_bytes()).decode()}">'
        for figure in figures
    ]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in notes),
        *tables,
        *images,
        f"<h2>Configuration</h2><pre>{html.escape(json.dumps(details, indent=1))}</pre></html>",
    ]
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def make_markdown_page(
    title: str, notes: Sequence[str], tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]]
) -> str:
    """The title, (header, rows) tables and notes as Markdown."""
    parts = [f"# {title}"]
    for header, rows in tables:
        rule = ["---", *["--:"] * (len(header) - 1)]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)))
    return "\n\n".join([*parts, *notes]) + "\n"
