"""Shared parts of the verbs that mitigate one network's losses on one crossbar: settings, tables and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape

from geniex.cli._device import check_device
from geniex.cli._files import check_file, check_folder, write_json
from geniex.cli._progress import Bars
from geniex.cli._tables import format_number, make_plain_table, make_report_console
from geniex.cli.predict import share
from geniex.errors import InputError
from geniex.simulator import save_converted
from geniex.study.grid.detail_tables import make_detail_tables
from geniex.study.grid.one_model import Mitigated, compute_mitigated, plan_before_and_after
from geniex.study.grid.report import write_detail_notes, write_study
from geniex.study.grid.table import Row

_MODEL = "model"
"""The stem of the files of the converted model."""


def run_and_report(
    settings: dict[str, Any],
    mitigation: str,
    after: str,
    *,
    device: str,
    data_root: Path | None,
    out: Path | None,
    json: Path | None,
) -> None:
    """Apply a mitigation, print the accuracies before and ``after`` it, and write the asked files."""
    check_file("json", json)
    check_device(device)
    plan = plan_before_and_after(settings, mitigation, device=device, data_root=data_root)
    check_folder("out", out)
    with Bars() as bars:
        found = compute_mitigated(plan, bars.update)
    _print(found, after)
    write_json(json, found.study.to_dict())
    if out is not None:
        missing = write_study(found.study, out)
        saved = save_converted(found.model, out / _MODEL)
        for line in (
            f"report: {out / 'report.html'}",
            f"model: {saved} (load_converted(path, network) reads it)",
            *missing,
        ):
            print(line)


def read_accumulator(bits: int | None, frac_bits: int | None) -> dict[str, int]:
    """The settings of an accumulator of finite width; empty if no width is given."""
    if bits is None:
        if frac_bits is not None:
            raise InputError("accumulator_frac_bits", frac_bits, "it needs accumulator_bits")
        return {}
    return {"accumulator_bits": bits} | ({} if frac_bits is None else {"accumulator_frac_bits": frac_bits})


def _print(found: Mitigated, after: str) -> None:
    console, study = make_report_console(), found.study
    header = (
        "network",
        "accuracy, %",
        "recovered, %",
        "of float's loss, %",
        "accuracy in check, %",
        "check agreement, %",
    )
    before = found.before
    rows = [
        ("in floating point", _interval(before, "float_accuracy", "float_accuracy_"), "-", "-", "-", "-"),
        ("on ideal tiles", _interval(before, "ideal_accuracy", "ideal_accuracy_"), "-", "-", "-", "-"),
        ("on crossbars", *_figures(before)),
        (after, *_figures(found.after)),
    ]
    shown = [k for k in range(len(header)) if k < 2 or any(row[k] != "-" for row in rows)]
    tables = {study.title: (tuple(header[k] for k in shown), [tuple(row[k] for k in shown) for row in rows])}
    for title, (names, lines) in (tables | make_detail_tables(study)).items():
        table = make_plain_table(escape(title), names[:1], names[1:])
        for line in lines:
            table.add_row(*map(escape, line))
        console.print(table)
    for note in ("In parentheses: 95 % intervals over the test images.", *write_detail_notes(study)):
        console.print(note, highlight=False, markup=False)


def _figures(row: Row) -> tuple[str, ...]:
    checked = (format_number(row.get(name), ".1f", 100) for name in ("check_accuracy", "check_agreement"))
    return (_interval(row, "accuracy", ""), _recovered(row, "recovered"), _recovered(row, "float_recovered"), *checked)


def _interval(row: Row, name: str, ends: str) -> str:
    return share(row[name], row[f"{ends}low"], row[f"{ends}high"])


def _recovered(row: Row, name: str) -> str:
    if row[name] is None:
        return "-"
    ends = "" if row[f"{name}_low"] is None else f" ({100 * row[f'{name}_low']:.0f} to {100 * row[f'{name}_high']:.0f})"
    return f"{100 * row[name]:.0f}{ends}"
