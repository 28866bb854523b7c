"""The columns of measured I-V curves in comma-separated files, read in volt and ampere."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from geniex.errors import FileFormatError, InputError

_PREFIXES = {"": 0, "m": -3, "u": -6, "µ": -6, "μ": -6, "n": -9, "p": -12}
_WORDS = {"": 0, "milli": -3, "micro": -6, "nano": -9, "pico": -12}
_UNITS = {f"{prefix}{unit.lower()}": (unit, power) for prefix, power in _PREFIXES.items() for unit in "VA"} | {
    f"{prefix}{word}": (unit, power)
    for prefix, power in _WORDS.items()
    for unit, words in (("V", ("volt", "volts")), ("A", ("amp", "amps", "ampere", "amperes")))
    for word in words
}
"""Quantity, "V" or "A", and power of ten of each unit, by the unit in lower case."""
_SYMBOLS = {"v": "V", "i": "A"}
"""Names that may stand for volt and ampere where they have no unit, see ``_in_si``."""
_NAMES = {"v": "V", "u": "V", "voltage": "V", "volt": "V", "bias": "V", "i": "A", "current": "A"}
"""First words of column names, and the quantity that they tell."""
_BRACKETED = re.compile(r"^(.*?)\s*[(\[{]\s*([^()\[\]{}]+?)\s*[)\]}]$")
_TRAILING = re.compile(r"^(.*?)(?:\s*/\s*|[\s_]+)(\w+)$")
_WAY_OUT = (
    'name the columns, such as columns=("V", "I") with None for a column to leave out,'
    ' and their units, such as units=("mV", "uA")'
)


class _Column(NamedTuple):
    """The quantity of a column, "V", "A" or None for neither, and the power of ten of its unit, None if not told."""

    quantity: str | None
    power: int | None


def read_iv(
    path: Path | str, columns: Sequence[str | None] | None = None, units: Sequence[str] | None = None
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """The voltages [V], and the currents [A] of each current column, in a comma-separated file.

    Args:
        path: the file; lines that start with # are comments.
        columns: the meaning of each column, in place of the file's header: "V", "I", any name that a header may have,
            or None for a column to leave out.
        units: one unit for each column that is used, or one for the voltage and one for all currents, in either order;
            they take precedence over the header's units.

    Raises:
        FileFormatError: the file is missing or is no table of numbers, or its header does not tell columns and units.
        InputError: ``columns`` or ``units`` do not fit the file.
    """
    header, rows = _table(path)
    width = len(rows[0]) if rows else len(header or columns or ())
    labels: list[str | None] = [*header] if header else [None] * width
    found = [_column(label) for label in labels]
    if columns is not None:
        found, labels = _given_columns(columns, found), list(columns)
    elif header is None and units is None:
        raise FileFormatError(f"{path}: the file has no header that names its columns and units; {_WAY_OUT}")
    if units is not None:
        found = _with_units(found, units)
    found = _checked(path, found, labels, every=columns is None)
    values = list(zip(*rows, strict=True)) or [()] * width
    used = [(c, column) for c, column in zip(found, values, strict=True) if c.quantity is not None]
    scaled = [(c.quantity, tuple(_times(v, c.power) for v in column)) for c, column in used]
    (voltages,) = [column for quantity, column in scaled if quantity == "V"]
    return voltages, tuple(column for quantity, column in scaled if quantity == "A")


def _times(value: float, power: int | None) -> float:
    """``value`` times this power of ten, rounded only once, so that 1.1 uA is 1.1e-6 A to the last bit."""
    assert power is not None
    return float(Decimal(repr(value)).scaleb(power))


def _table(path: Path | str) -> tuple[list[str] | None, list[tuple[float, ...]]]:
    """The header, if there is one, and the numbers below it."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: it cannot be read as text ({error})") from error
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and line.strip()[0] != "#"]
    header = None
    if lines and not all(_is_number(cell) for cell in _cells(lines[0][1])):
        header = [cell.strip() for cell in _cells(lines.pop(0)[1])]
    rows = [_numbers(f"{path}, line {n}", line) for n, line in lines]
    width = len(header) if header is not None else len(rows[0]) if rows else 0
    for (n, _), row in zip(lines, rows, strict=True):
        if len(row) != width or width < 2:
            expected = f"the first line has {width}" if width > 1 else "a voltage and a current are needed"
            raise FileFormatError(f"{path}, line {n}: the line has {len(row)} columns; {expected}")
    return header, rows


def _column(name: str | None) -> _Column:
    """The column that ``name`` describes; the unit of a bare V or I is left open, see ``_in_si``."""
    plain = (name or "").strip().lower()
    if plain in _SYMBOLS:
        return _Column(_SYMBOLS[plain], None)
    if plain in _UNITS:
        return _Column(*_UNITS[plain])
    match = _BRACKETED.match(plain) or _TRAILING.match(plain)
    stem, unit = (match[1], _UNITS.get(match[2])) if match else (plain, None)
    first = re.match(r"[a-z]*", stem)
    named = _NAMES.get(first[0] if first else "")
    if unit is None:
        return _Column(None if match and _BRACKETED.match(plain) else named, None)
    # A name of one quantity with a unit of the other describes no column.
    return _Column(*unit) if named in (None, unit[0]) else _Column(None, None)


def _given_columns(columns: Sequence[str | None], header: list[_Column]) -> list[_Column]:
    """The columns as the caller names them, with the header's units where the names have none."""
    if isinstance(columns, str) or len(columns) != len(header):
        allowed = f"the file has {len(header)} columns: give one entry for each, None for a column to leave out"
        raise InputError("columns", repr(columns), allowed)
    found = []
    for name, told in zip(columns, header, strict=True):
        column = _column(name)
        if name is not None and column.quantity is None:
            raise InputError(
                "columns", repr(name), 'it must name a voltage or a current, such as "V" or "I (uA)", or be None'
            )
        same = column.power is None and column.quantity == told.quantity
        found.append(told if same else column)
    return found


def _with_units(found: list[_Column], units: Sequence[str]) -> list[_Column]:
    """The columns with these units, which also give a quantity to columns that have none yet."""
    known = []
    for unit in [units] if isinstance(units, str) else units:
        if str(unit).strip().lower() not in _UNITS:
            raise InputError("units", repr(unit), "it must be one of V, mV, uV, A, mA, uA, nA, pA")
        known.append(_UNITS[str(unit).strip().lower()])
    used = [k for k, column in enumerate(found) if column.quantity is not None] or list(range(len(found)))
    by_quantity, quantities = dict(known), [found[k].quantity for k in used]
    if len(known) == len(by_quantity) == 2 and None not in quantities:
        given = {k: (quantity, by_quantity[quantity]) for k, quantity in zip(used, quantities, strict=True) if quantity}
    elif len(known) == len(used):
        given = dict(zip(used, known, strict=True))
    else:
        allowed = f"give one for each of the {len(used)} columns, or one for the voltage and one for all currents"
        raise InputError("units", repr(units), allowed)
    for k, (quantity, _) in given.items():
        if found[k].quantity not in (None, quantity):
            kind = "voltages" if found[k].quantity == "V" else "currents"
            raise InputError("units", repr(units), f"column {k + 1} holds {kind}")
    return [_Column(*given[k]) if k in given else column for k, column in enumerate(found)]


def _checked(path: Path | str, found: list[_Column], labels: Sequence[str | None], every: bool) -> list[_Column]:
    """The columns, after a check that there are one voltage and at least one current, all of them with a unit.

    With ``every``, no column may be left out. Raises ``FileFormatError``.
    """
    for k, column in enumerate(found):
        if every and column.quantity is None:
            told = "does not name a voltage or a current with its unit"
            raise FileFormatError(f"{path}: the header {labels[k]!r} {told}; {_WAY_OUT}")
    counts = [sum(column.quantity == quantity for column in found) for quantity in "VA"]
    if counts[0] != 1 or counts[1] < 1:
        told = f"the file has {counts[0]} voltage columns and {counts[1]} current columns"
        raise FileFormatError(
            f"{path}: {told}; it must have one voltage column and at least one current column: {_WAY_OUT}"
        )
    found = _in_si(found, labels)
    for column, label in zip(found, labels, strict=True):
        if column.quantity is not None and column.power is None:
            raise FileFormatError(f"{path}: the column {label!r} has no unit; {_WAY_OUT}")
    return found


def _in_si(found: list[_Column], labels: Sequence[str | None]) -> list[_Column]:
    """The columns with the power of a bare "V" set to volt, as V is a unit too, and beside it that of a bare "I" to
    ampere."""

    def bare(k: int, symbol: str) -> bool:
        return found[k].power is None and (labels[k] or "").strip().lower() == symbol

    volts = any(bare(k, "v") for k in range(len(found)))
    si = [bare(k, "v") or (volts and bare(k, "i")) for k in range(len(found))]
    return [column._replace(power=0) if own else column for column, own in zip(found, si, strict=True)]


def _cells(line: str) -> list[str]:
    return next(csv.reader([line], skipinitialspace=True))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(where: str, line: str) -> tuple[float, ...]:
    try:
        return tuple(float(x) for x in _cells(line))
    except (ValueError, csv.Error) as error:
        raise FileFormatError(f"{where}: {line.strip()!r} is not a row of numbers ({error})") from None
