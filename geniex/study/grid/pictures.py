"""The pictures of a study: accuracy and logit error along each axis, and accuracy against each cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from geniex.plotting import Measured, plot_layer_errors, plot_panels, plot_recovered, plot_tradeoff, save_plot
from geniex.plotting.study import short_number
from geniex.study.grid.files import find_axes
from geniex.study.grid.table import Row, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {
    "tile": "tile, word lines and bit lines",
    "window.r_on": "R_on, ohm",
    "window.on_off": "on/off ratio",
    "crossbar.r_wire": "wire resistance, ohm",
    "v_max": "drive, V",
    "variation.finite_states.states": "conductance states",
    "variation.range_spread.sigma_on": "spread of R_on and R_off",
    "variation.conductance_spread.sigma": "spread of conductances",
    "variation.stuck_cells.off": "share of cells stuck at G_off",
    "variation.stuck_cells.on": "share of cells stuck at G_on",
}
_COSTS = {
    "arrays": "arrays",
    "reads": "array reads per image",
    "adc_conversions": "ADC conversions per image",
    "static_energy": "static energy of the arrays, J per image",
}
IDEAL = "ideal tiles"
"""Name of the line of ideal tiles if all curves share it."""
_COLOURS = 8
"""Most lines in one panel."""
_MOST_PANELS = 9


class _Measure(NamedTuple):
    """A quantity that is drawn along axes: its column, the columns of its interval, and the column of ideal tiles."""

    name: str
    columns: tuple[str, str, str]
    ideal: str


_ACCURACY = _Measure("accuracy", ("accuracy", "low", "high"), "ideal_accuracy")
_ERROR = _Measure("logit error", ("logit_error", "logit_error_low", "logit_error_high"), "ideal_logit_error")


def title_axis(name: str) -> str:
    """The title of an axis in pictures, with its unit."""
    return _TITLES.get(name, name.rpartition(".")[2].replace("_", " "))


def shorten_title(name: str) -> str:
    """The title of an axis without its unit."""
    return title_axis(name).partition(",")[0]


def save_pictures(study: Study, folder: Path) -> list[Path]:
    """Write the pictures to the existing ``folder`` and return the PNG paths; none if no grid point has a result."""
    made = [save_plot(ax, folder / f"{name}.png") for name, ax in draw_pictures(study.summary)]
    if study.layers:
        made.append(save_plot(plot_layer_errors(_by_varied(study, study.layers)), folder / "layers.png"))
    return made


def draw_pictures(summary: Sequence[Row]) -> Iterator[tuple[str, Axes]]:
    """All pictures of a study with their file names, from its summary, such as ``read_table("summary.csv")``."""
    done = [row for row in summary if row["accuracy"] is not None]
    axes = find_axes(done)
    parts = list(dict.fromkeys(row.get("part", "") for row in done))
    for part in parts:
        rows = [row for row in done if row.get("part", "") == part]
        varied = [name for name in axes if len({row[name] for row in rows}) > 1]
        numbers = [name for name in varied if not any(isinstance(row[name], str) for row in rows)]
        # An axis of words distinguishes lines if the part has an axis of numbers to draw them along.
        for axis in _leading(rows, numbers or varied):
            for measure in (_ACCURACY, _ERROR):
                shown = [row for row in rows if row[measure.columns[0]] is not None]
                if shown:
                    stem = "-".join(_file_name(word) for word in (measure.name, part, axis) if word)
                    yield stem, _along(shown, varied, axis, part, measure)
        shares = {_named(row, varied) or str(row.get("mitigation", "all")): row for row in rows}
        if any(row.get("recovered") is not None for row in rows):
            yield "-".join(_file_name(word) for word in ("recovered", part) if word), plot_recovered(shares)
    for cost, title in _COSTS.items():
        known = [row for row in done if row[cost]]
        if len({row[cost] for row in known}) > 1:
            yield f"pareto-{cost}", _against(known, axes, cost, title)


def _along(rows: Sequence[Row], varied: Sequence[str], axis: str, part: str, measure: _Measure) -> Axes:
    others = _free(rows, varied, axis)
    hue = _hue(rows, others)
    rest = [name for name in others if name != hue]
    panels: dict[str, tuple[dict[str, list[Measured]], dict[str, list[Measured]]]] = {}
    for row in rows:
        lines, dotted = panels.setdefault(_named(row, rest), ({}, {}))
        name, ideal = measure.name if hue is None else str(row[hue]), row[measure.ideal]
        lines.setdefault(name, []).append(Measured(row[axis], *(row[column] for column in measure.columns)))
        if ideal is not None:
            dotted.setdefault(name, []).append(Measured(row[axis], ideal, ideal, ideal))
    panels = {name: (lines, _ideal_lines(dotted)) for name, (lines, dotted) in panels.items()}
    title = f"{part}: {measure.name}" if part else measure.name.capitalize()
    if len(panels) > _MOST_PANELS:
        title += f" (the first {_MOST_PANELS} of {len(panels)} panels)"
    legend = None if hue is None else shorten_title(hue)
    first = dict(list(panels.items())[:_MOST_PANELS])
    return plot_panels(first, _with_steps(rows, varied, axis), title, legend, measure.name)


def _ideal_lines(dotted: dict[str, list[Measured]]) -> dict[str, list[Measured]]:
    """A line of ideal tiles for each curve, by the curve's name; one line for all curves if they do not differ."""
    apart = {(point.at, point.accuracy) for line in dotted.values() for point in line}
    if len(apart) > len({at for at, _ in apart}):
        return dotted
    return {IDEAL: list({point.at: point for line in dotted.values() for point in line}.values())} if apart else {}


def _free(rows: Sequence[Row], varied: Sequence[str], axis: str) -> list[str]:
    """The axes other than ``axis``, without axes that go in step with it or with an earlier axis."""
    free: list[str] = []
    for name in varied:
        if name != axis and not any(_in_step(rows, name, other) for other in (axis, *free)):
            free.append(name)
    return free


def _leading(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """The axes ``names`` without axes that go in step with an earlier axis."""
    return [name for k, name in enumerate(names) if not any(_in_step(rows, name, other) for other in names[:k])]


def _with_steps(rows: Sequence[Row], varied: Sequence[str], axis: str) -> str:
    """The axis' title, with the titles of the axes that go in step with it."""
    others = [shorten_title(name) for name in varied if name != axis and _in_step(rows, name, axis)]
    return f"{title_axis(axis)} ({' and '.join(others)} in step)" if others else title_axis(axis)


def _in_step(rows: Sequence[Row], one: str, other: str) -> bool:
    pairs = {(row[one], row[other]) for row in rows}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _hue(rows: Sequence[Row], others: Sequence[str]) -> str | None:
    """The axis that distinguishes lines: the first axis of words, else the axis of fewest values; None if none fits."""
    counts = {name: len({row[name] for row in rows}) for name in others}
    fit = [name for name in others if counts[name] <= _COLOURS]
    words = [name for name in fit if any(isinstance(row[name], str) for row in rows)]
    return next(iter(words or sorted(fit, key=lambda name: counts[name])), None)


def _against(rows: Sequence[Row], axes: Sequence[str], cost: str, title: str) -> Axes:
    varied = [name for name in axes if len({row[name] for row in rows}) > 1]
    hue = "part" if "part" in rows[0] else _hue(rows, varied)
    groups: dict[str, dict[str, Measured]] = {}
    for k, row in enumerate(rows):
        group = groups.setdefault("all" if hue is None else str(row[hue]), {})
        own = [other for other in rows if other.get("part") == row.get("part")]
        named = [axis for axis in varied if axis != hue and len({other[axis] for other in own}) > 1]
        name = ", ".join(short_number(row[axis]) for axis in named) or str(k)
        group[name] = _measured(row[cost], row)
    return plot_tradeoff(groups, title, f"Accuracy against {title.partition(',')[0]}")


def _measured(at: Any, row: Row) -> Measured:
    return Measured(at, row["accuracy"], row["low"], row["high"])


def _by_varied(study: Study, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by the values of the axes that vary among them."""
    varied = [name for name in (*study.axes, "training") if len({row[name] for row in rows}) > 1]
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(_named(row, varied) or "all", []).append(row)
    return out


def _named(row: Row, names: Sequence[str]) -> str:
    # Names of mitigations and networks need no explanation.
    plain = ("mitigation", "network", "training")
    return ", ".join(("" if name in plain else f"{shorten_title(name)} ") + short_number(row[name]) for name in names)


def _file_name(word: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in word).strip("-")
