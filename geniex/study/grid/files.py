"""The tables of a study as files: CSV and Parquet, written and read."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geniex.distribution import install_hint
from geniex.errors import InputError, MissingDependencyError
from geniex.study.grid.table import Row, name_columns

_FIRST_FIGURE = "trainings"
"""The first column of a summary after the columns of the axes."""


def to_csv(rows: Sequence[Row]) -> str:
    """A table as CSV with a header; floats have all digits, missing values are empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, name_columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def to_parquet(rows: Sequence[Row]) -> bytes:
    """A table as a Parquet file; a column that mixes numbers and words is written as words.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    parquet = _parquet()
    import pyarrow

    data = {name: _of_one_kind([row[name] for row in rows]) for name in name_columns(rows)}
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(data), file)
    return file.getvalue()


def read_table(path: str | Path) -> list[Row]:
    """The rows of ``table.csv``, ``summary.csv`` or ``table.parquet``: numbers and words, None for a missing value.

    Booleans are read as words. In a Parquet file all values of a column are words if one of them is.

    Raises:
        InputError: the file does not exist or holds no table.
        MissingDependencyError: the file is Parquet and pyarrow is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("path", str(path), "it must be a study's table.csv, summary.csv or table.parquet")
    if path.suffix == ".parquet":
        return _parquet().read_table(path).to_pylist()
    with path.open(newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    if not header or any(len(line) != len(header) for line in lines):
        raise InputError(
            "path", str(path), "it must have a header and rows of equal length: the file may be incomplete"
        )
    return [dict(zip(header, map(_value, line), strict=True)) for line in lines]


def find_axes(summary: Sequence[Row]) -> list[str]:
    """The columns of a summary that hold the varied settings."""
    names = name_columns(summary)
    if names and _FIRST_FIGURE not in names:
        raise InputError(
            "summary", f"a table with columns {', '.join(names[:4])}, ...", "it must be the table of a summary.csv"
        )
    return [name for name in names[: names.index(_FIRST_FIGURE)] if name != "part"] if names else []


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "Parquet tables", install_hint("parquet")) from error
    return pyarrow.parquet


def _value(word: str) -> int | float | str | None:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word or None


def _of_one_kind(values: list[Any]) -> list[Any]:
    """The values unchanged if all are numbers or all are words; mixed values and booleans as words. None stays None."""
    known = [value for value in values if value is not None]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    if numbers and any(isinstance(value, float) for value in known):
        return [None if value is None else float(value) for value in values]
    return values if numbers else [None if value is None else str(value) for value in values]
