"""The files that a study writes to its folder: tables, a report page and figures."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geniex.errors import MissingDependencyError
from geniex.files import to_standard_json, write_atomically
from geniex.plotting.study import short_number
from geniex.study.grid.counts import CONVERTERS
from geniex.study.grid.detail_tables import Table, make_detail_tables
from geniex.study.grid.files import to_csv, to_parquet
from geniex.study.grid.pictures import save_pictures, shorten_title
from geniex.study.grid.table import DETAILS, Row, Study
from geniex.study.html import make_html_table, make_markdown_page, write_page

_FIGURES = {
    "arrays": ("arrays", ",.0f", 1.0),
    "reads": ("reads", ",.0f", 1.0),
    "conversions": ("adc_conversions", ",.0f", 1.0),
    "energy, uJ": ("static_energy", ".3g", 1e6),
    "s": ("seconds", ".0f", 1.0),
}
"""Columns of the summary table, by title: the row's key, the number format and the factor."""
_CONVERTERS = {
    "ADC clips, %": "adc_clipped",
    "ADC codes used, %": "adc_codes_used",
    "overflows, %": "overflowed",
}
"""Columns of the summary table on how well the converters' ranges fit, by title: keys of shares."""
_SHARES = {
    "recovered, %": ("recovered", ""),
    "over images, %": ("recovered", "images_"),
    "of float's, %": ("float_recovered", ""),
}
"""Columns of the summary table on what mitigations recover, by title: the share, and which of its intervals."""
_CHECKED = {"accuracy in check, %": "check_accuracy", "check agreement, %": "check_agreement"}
"""Columns of the summary table on checks by another emulator, by title: keys of shares."""
_NEAR_CHANCE = 0.25
"""Ideal tiles are near chance if their accuracy above chance is less than this share of the floating-point one's."""
_NAMED = 3
"""Grid points that a warning names."""
_FOLDED = 40
"""Tables with at least so many rows are folded on the page."""


def write_study(study: Study, folder: Path) -> list[str]:
    """Write table.csv, table.parquet, summary.csv, report.html, report.md, report.json and the figures to ``folder``.

    The further tables of the study that are not empty (differences.csv, layers.csv, places.csv, learning_rates.csv) are
    written too. The function returns one line for each output that could not be written because an optional package is
    missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "table.csv", to_csv(study.rows).encode())
    write_atomically(folder / "summary.csv", to_csv(study.summary).encode())
    for name in DETAILS:
        if rows := getattr(study, name):
            write_atomically(folder / f"{name}.csv", to_csv(rows).encode())
    write_atomically(folder / "report.json", (json.dumps(to_standard_json(study.to_dict()), indent=1) + "\n").encode())
    missing, figures = list[str](), list[Path]()
    try:
        write_atomically(folder / "table.parquet", to_parquet(study.rows))
    except MissingDependencyError as error:
        missing.append(f"no Parquet: {error}")
    try:
        figures = save_pictures(study, folder)
    except MissingDependencyError as error:
        missing.append(f"no figures: {error}")
    told = [*write_notes(study), *missing]
    tables = {"What was varied": tabulate_axes(study)} | tabulate_summary(study) | make_detail_tables(study)
    tables |= {"Every run": tabulate_runs(study)}
    pages = [make_markdown_page(study.title, told, [])]
    pages += [f"#{make_markdown_page(title, [], [table])}" for title, table in tables.items()]
    write_atomically(folder / "report.md", "\n".join(pages).encode())
    parts = [_on_page(title, table) for title, table in tables.items()]
    write_page(folder / "report.html", study.title, told, parts, figures, study.configuration["asked"])
    return missing


def write_notes(study: Study) -> list[str]:
    """The notes above the tables: findings, the meaning of the columns, and failed runs."""
    told = [study.about] if study.about else []
    told += _findings(study)
    units = {row["interval"] for row in study.summary} - {None}
    student = "Student's t; for accuracies on the logit scale, for differences cut off at impossible accuracies"
    over = {"networks": f"over networks ({student})", "draws": f"over draws ({student})", "images": "over images"}
    ends = " or ".join(over[unit] for unit in sorted(units))
    told.append(
        f"In parentheses: 95 % intervals, {ends or 'where there are any'}. Below float and below ideal: the accuracy"
        " lost against floating point, and against ideal tiles of the same architecture without variations or"
        " mitigation, in percent points on the same images. Ideal tiles have the same number formats and converters,"
        " so that only the first loss includes their cost. Logit error: RMS difference of the logits from those in"
        " floating point, relative to the RMS of these."
    )
    if any(row[name] is not None for row in study.summary for name in CONVERTERS):
        told.append(
            "On calibration inputs: shares of ADC conversions that clip and of accumulated sums that overflow, in the"
            " layer where most do, and share of the ADC's codes that occur, in the layer that uses the fewest."
        )
    if study.baseline:
        which = ", ".join(f"{shorten_title(name)} {value}" for name, value in study.baseline.items())
        told.append(
            f"Above baseline: accuracy minus that of the point with {which} and otherwise equal settings, on the same"
            " images, trainings and draws in pairs."
        )
    told += write_detail_notes(study)
    if study.failed:
        first = study.failed[0]
        told.append(
            f"{len(study.failed)} of {len(study.rows)} runs have no result (* in the tables); the same command tries"
            f" them again. The first: {_told(study, first)}: {first['error']}"
        )
    return told


def write_detail_notes(study: Study) -> list[str]:
    """The meaning of the columns and tables that only some studies have."""
    told = []
    if any(row.get("recovered") is not None for row in study.summary):
        told.append(
            "Recovered: the share of the accuracy lost from ideal tiles to the same crossbars without mitigation that a"
            " mitigation recovers, summed over all networks. Over images: its bootstrap interval over the images, which"
            " holds for these networks only. Of float's: the share of the accuracy lost from floating point."
        )
    if any(row.get("check_accuracy") is not None for row in study.summary):
        told.append(
            "Check: another emulator reads the same arrays for the first test images. Accuracy in check: its accuracy"
            " on these. Check agreement: the share of these images on which both emulators predict the same class."
        )
    if study.differences:
        told.append(
            "Differences in accuracy are on the same images and networks; intervals over images are bootstraps."
        )
    if study.layers:
        known = [row["order_agreement"] for row in study.layers if row["order_agreement"] is not None]
        worst = f" The lowest agreement is {min(known):.2f}." if known else ""
        told.append(
            f"Output errors are against ideal tiles on {study.layers[0]['positions']} sampled inputs of each layer of"
            f" {study.layers[0]['training']}; weighted errors are weighted by the squared loss gradient on ideal tiles."
            " Rank agreement: Kendall's tau between the mitigations' weighted errors by emulator and by exact circuit."
            f"{worst}"
        )
    return told


def tabulate_axes(study: Study) -> Table:
    """The axes and their values, part by part."""
    rows: list[tuple[str, ...]] = []
    parts = list(dict.fromkeys(row.get("part", "") for row in study.summary))
    for part in parts:
        own = [row for row in study.summary if row.get("part", "") == part]
        for name in study.axes:
            values = list(dict.fromkeys(_text(row[name]) for row in own))
            if len(values) > 1 or len(parts) == 1:
                rows.append((*([part] if len(parts) > 1 else []), name, ", ".join(values)))
    return (*(["part"] if len(parts) > 1 else []), "setting", "values"), rows


def tabulate_summary(study: Study) -> dict[str, Table]:
    """One table for each part, by title, with a row for each grid point.

    Axes of one value and empty columns are left out.
    """
    parts: dict[str, list[Row]] = {}
    for row in study.summary:
        parts.setdefault(str(row.get("part", "Summary")), []).append(row)
    return {part: _summary_table(study, rows) for part, rows in parts.items()}


def _summary_table(study: Study, rows: Sequence[Row]) -> Table:
    varied = [axis for axis in study.axes if len({row[axis] for row in rows}) > 1]
    columns: dict[str, list[str]] = {shorten_title(axis): [_text(row[axis]) for row in rows] for axis in varied}
    between = {
        "accuracy, %": ("accuracy", "", ".2f"),
        "below float": ("float_drop", "float_drop_", ".2f"),
        "below ideal": ("drop", "drop_", ".2f"),
    }
    if study.baseline:
        between["above baseline"] = ("difference", "difference_", "+.2f")
    for title, (name, ends, form) in between.items():
        columns[title] = [_between(row, name, ends, form) for row in rows]
        if name == "accuracy":
            columns[title] = [f"{x} *" if row["failed"] else x for x, row in zip(columns[title], rows, strict=True)]
            columns["ideal, %"] = [_ideal(row) for row in rows]
    columns["logit error, %"] = [_between(row, "logit_error", "logit_error_") for row in rows]
    for title, (name, what) in _SHARES.items():
        columns[title] = [_share_between(row, name, what) for row in rows]
    for title, name in _CHECKED.items():
        columns[title] = [_percent(row.get(name)) for row in rows]
    for title, name in _CONVERTERS.items():
        columns[title] = [_percent(row[name]) for row in rows]
    for title, (name, form, scale) in _FIGURES.items():
        columns[title] = [_number(row[name], form, scale) for row in rows]
    kept = {title: values for title, values in columns.items() if set(values) != {"-"}}
    return tuple(kept), [tuple(row) for row in zip(*kept.values(), strict=True)]


def tabulate_runs(study: Study) -> Table:
    """A table with one row for each grid point, network and draw."""
    part = ("part",) if study.rows and "part" in study.rows[0] else ()
    names = [shorten_title(name) for name in study.axes]
    header = (
        *part,
        *names,
        "training",
        "draw",
        "accuracy, %",
        "float, %",
        "ideal tiles, %",
        "below float",
        "below ideal",
        "logit error, %",
        "s",
        "error",
    )
    rows = []
    for row in study.rows:
        head = [_text(row[name]) for name in (*part, *study.axes, "training", "draw")]
        tail = [
            _percent(row[name]) for name in ("float_accuracy", "ideal_accuracy", "float_drop", "drop", "logit_error")
        ]
        figures = (_between(row, "accuracy", ""), *tail, _number(row["seconds"], ".1f"), row["error"] or "")
        rows.append((*head, *figures))
    return header, rows


def _findings(study: Study) -> list[str]:
    """A line each for the most and the least accurate grid point, and a warning of ideal tiles near chance."""
    done = [row for row in study.summary if row["accuracy"] is not None]
    out = []
    if len(done) > 1:
        ends = {"Most accurate": max, "Least accurate": min}
        out = [f"{what}: {_finding(study, end(done, key=_accuracy))}" for what, end in ends.items()]
    ruined = [row for row in done if _near_chance(row)]
    if ruined:
        named = "; ".join(f"{_told(study, row)} ({_percent(row['ideal_accuracy'])} %)" for row in ruined[:_NAMED])
        more = f"; and {len(ruined) - _NAMED} more" if len(ruined) > _NAMED else ""
        out.append(
            f"Warning: in {len(ruined)} of {len(done)} points even ideal tiles are near chance"
            f" ({_percent(ruined[0]['chance'])} %; ! in the tables): their number formats or converters ruin the"
            " network, so that the drop from ideal tiles says nothing about wires and devices. These points are:"
            f" {named}{more}."
        )
    return out


def _accuracy(row: Row) -> float:
    return float(row["accuracy"])


def _finding(study: Study, row: Row) -> str:
    """A grid point's accuracy with its interval, and how far it lies below its references."""
    below = [
        f"{100 * row[name]:.1f} points below {what}"
        for name, what in (("float_drop", "float"), ("drop", "ideal tiles"))
        if row[name] is not None
    ]
    return ", ".join([f"{_between(row, 'accuracy', '')} % ({_told(study, row)})", *below]) + "."


def _near_chance(row: Row) -> bool:
    """Whether ideal tiles are hardly better than chance at a grid point where floating point is."""
    ideal, floating, chance = row["ideal_accuracy"], row["float_accuracy"], row["chance"]
    if None in (ideal, floating, chance):
        return False
    return bool(ideal - chance < _NEAR_CHANCE * (floating - chance))


def _ideal(row: Row) -> str:
    return _percent(row["ideal_accuracy"]) + (" !" if _near_chance(row) else "")


def _told(study: Study, row: Row) -> str:
    """The grid point of a row in words: its part and the values that the part varies."""
    alike = [other for other in study.summary if other.get("part") == row.get("part")]
    varied = [name for name in study.axes if len({other[name] for other in alike}) > 1]
    part = f"{row['part']}: " if "part" in row else ""
    return part + ", ".join(f"{shorten_title(name)} {_text(row[name])}" for name in varied)


def _on_page(title: str, table: Table) -> str:
    header, rows = table
    text = f"<h2>{html.escape(title)}</h2>"
    if len(rows) < _FOLDED:
        return text + make_html_table(header, rows)
    return f"{text}<details><summary>{len(rows)} rows</summary>{make_html_table(header, rows)}</details>"


def _between(row: Row, name: str, ends: str, form: str = ".2f") -> str:
    value, low, high = row[name], row[f"{ends}low"], row[f"{ends}high"]
    if value is None:
        return "-"
    ends = form.replace("2", "1")
    return f"{100 * value:{form}} ({100 * low:{ends}} to {100 * high:{ends}})"


def _share_between(row: Row, name: str, which: str) -> str:
    """A recovered share with its interval over networks, or over images only if ``which`` asks for it."""
    value, low, high = (row.get(key) for key in (name, f"{name}_{which}low", f"{name}_{which}high"))
    ends = "-" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f}"
    if which or value is None:
        return ends
    return f"{100 * value:.0f}" + ("" if ends == "-" else f" ({ends})")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(scale * value, form)


def _text(value: Any) -> str:
    return short_number(value)
