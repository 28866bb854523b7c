"""``geniex doctor``: the libraries, tools and data sets on this machine, and those that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from geniex.cli._files import check_file, write_json

Findings = Sequence[Any]
"""A sequence of ``geniex.study.doctor.Finding``: jsonargparse would import it, and torch, even under TYPE_CHECKING."""


def doctor(root: Path | None = None, json: Path | None = None) -> None:
    """Report what this machine has and what is missing; nothing is downloaded or changed.

    Args:
        root: folder in which data sets are looked for; default: $GENIEX_DATA, otherwise ~/.cache/geniex.
        json: file for the machine-readable findings.
    """
    from geniex.study.doctor import examine  # imports torch, which help does not need

    check_file("json", json)
    findings = examine(root)
    console = Console()
    console.print(_found([f for f in findings if f.found is not None]))
    for conflict in [f for f in findings if f.kind == "conflict"]:
        console.print(f"[bold]{escape(str(conflict.found))}[/] has the same import name: {escape(conflict.way_out)}")
    missing = [f for f in findings if f.found is None]
    console.print(_missing(missing) if missing else "Nothing is missing.")
    write_json(json, [asdict(f) for f in findings])


def _found(findings: Findings) -> Table:
    table = Table("kind", "name", "found", title="On this machine", box=box.SIMPLE_HEAD, title_justify="left")
    kind = ""
    for finding in findings:
        table.add_row("" if finding.kind == kind else finding.kind, finding.name, escape(finding.found or ""))
        kind = finding.kind
    return table


def _missing(findings: Findings) -> Table:
    table = Table("name", "needed for", "how to get it", title="Missing", box=box.SIMPLE_HEAD, title_justify="left")
    for finding in findings:
        table.add_row(*map(escape, (finding.name, finding.needed_for, finding.way_out)))
    return table
