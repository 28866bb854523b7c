"""The further tables of a study as text: differences, layers' errors, places and learning rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from geniex.plotting.study import short_number
from geniex.study.grid.pictures import shorten_title
from geniex.study.grid.table import Row, Study

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""A header and rows of text."""
_Column = Callable[[Row], str]


def make_detail_tables(study: Study) -> dict[str, Table]:
    """The tables that are not empty, by title."""
    asked = {
        "Differences in accuracy": (study.differences, _DIFFERENCES),
        "Output errors, layer by layer": (study.layers, _LAYERS),
        "Places of outputs": (study.places, _PLACES),
        "Learning rates": (study.learning_rates, _RATES),
    }
    return {title: _table(study, rows, columns) for title, (rows, columns) in asked.items() if rows}


def _table(study: Study, rows: Sequence[Row], columns: dict[str, _Column]) -> Table:
    """The columns that vary among those that identify runs, then ``columns``."""
    heads = [name for name in ("part", *study.axes, "training", "draw") if len({row.get(name) for row in rows}) > 1]
    header = (*(name if name in ("part", "training", "draw") else shorten_title(name) for name in heads), *columns)
    return header, [
        (*(short_number(row[name]) for name in heads), *(column(row) for column in columns.values())) for row in rows
    ]


def _percent(name: str, form: str = ".2f") -> _Column:
    def told(row: Row) -> str:
        return "-" if row[name] is None else f"{100 * row[name]:{form}}"

    return told


def _number(name: str, form: str) -> _Column:
    def told(row: Row) -> str:
        return "-" if row[name] is None else format(row[name], form)

    return told


def _word(name: str) -> _Column:
    return lambda row: short_number(row[name])


def _ends(low: str, high: str) -> _Column:
    def told(row: Row) -> str:
        return "-" if row[low] is None else f"{100 * row[low]:+.2f} to {100 * row[high]:+.2f}"

    return told


_DIFFERENCES: dict[str, _Column] = {
    "above": _word("above"),
    "points": _percent("difference", "+.2f"),
    "over images": _ends("low", "high"),
    "over networks": _ends("networks_low", "networks_high"),
}
_LAYERS: dict[str, _Column] = {
    "layer": _word("layer"),
    "emulator, %": _percent("emulator"),
    "circuit, %": _percent("circuit"),
    "emulator, weighted, %": _percent("emulator_weighted"),
    "circuit, weighted, %": _percent("circuit_weighted"),
    "rank agreement, tau": _number("order_agreement", ".2f"),
}
_PLACES: dict[str, _Column] = {
    "layer": _word("layer"),
    "moved": _word("moved"),
    "outputs": _word("outputs"),
    "undone": _word("undone"),
    "consumers": _word("consumers"),
}
_RATES: dict[str, _Column] = {
    "learning rate": _number("learning_rate", "g"),
    "training loss": _number("training_loss", ".3f"),
    "loss on held-out images": _number("left_out_loss", ".3f"),
    "accuracy on held-out images, %": _percent("left_out_accuracy", ".1f"),
    "s per step": _number("seconds_per_step", ".2g"),
    "chosen": lambda row: "yes" if row["chosen"] else "",
}
