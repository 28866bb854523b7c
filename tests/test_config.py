"""Configurations: through plain dictionaries and back, and what they refuse."""

import json

import pytest

from geniex.cells import Cell, LinearCell, SinhCell
from geniex.circuit import Crossbar
from geniex.config import Config, check_number, check_positive_int
from geniex.errors import InputError
from geniex.mapping.window import ConductanceWindow


@pytest.mark.parametrize(
    "config",
    [
        Crossbar(3, 4),
        Crossbar(3, 4, r_wire_row=0.0, cell=LinearCell()),
        SinhCell(v0=0.4),
        ConductanceWindow(r_on=100e3, on_off=6.0),
    ],
    ids=str,
)
def test_round_trip_through_json(config: Config) -> None:
    data = json.loads(json.dumps(config.to_dict()))
    assert Config.from_dict(data) == config
    assert type(config).from_dict(data) == config


def test_dictionary_says_what_it_is() -> None:
    data = Crossbar(3, 4).to_dict()
    assert (data["_type"], data["_version"]) == ("Crossbar", 1)
    assert data["cell"] == {"_type": "SinhCell", "_version": 1, "v0": 0.25}


def test_type_may_be_left_out_where_it_is_known() -> None:
    assert SinhCell.from_dict({"v0": 0.4}) == SinhCell(v0=0.4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"_type": "Crossbar", "rows": 3, "cols": 4, "r_wires": 1.0},
            r"Crossbar\.r_wires: got an unknown field; .*r_wire",
        ),
        ({"_type": "Crosbar", "rows": 3, "cols": 4}, "_type: got 'Crosbar'; it must be one of Crossbar"),
        ({"_type": "SinhCell", "v0": 0.25}, "_type: got 'SinhCell'; it must be one of Crossbar"),
        ({"_type": "Crossbar", "_version": 2, "rows": 3, "cols": 4}, "_version: got 2; .*version 1 of Crossbar"),
        ({"_type": "Crossbar", "rows": -3, "cols": 4}, "rows: got -3; .*at least 1"),
        ({"_type": "Crossbar", "rows": 3, "cols": 4, "cell": {"_type": "Memristor"}}, "_type: got 'Memristor'"),
        ({"_type": "Crossbar", "rows": 3, "cols": 4, "cell": {"_type": "Crossbar", "rows": 1, "cols": 1}}, "cell: got"),
    ],
)
def test_foreign_dictionaries_are_refused(data: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Crossbar.from_dict(data)  # type: ignore[arg-type]


def test_a_field_without_a_value_and_a_foreign_shape_are_named() -> None:
    with pytest.raises(InputError, match=r"Crossbar.rows: got no value"):
        Crossbar.from_dict({"cols": 4})
    with pytest.raises(InputError, match=r"Crossbar: got .*mapping"):
        Crossbar.from_dict([3, 4])  # type: ignore[arg-type]


def test_a_base_class_reads_all_of_its_kind() -> None:
    assert Cell.from_dict(SinhCell(v0=0.3).to_dict()) == SinhCell(v0=0.3)


def test_replace_validates_again() -> None:
    assert Crossbar(3, 4).replace(rows=5) == Crossbar(5, 4)
    with pytest.raises(InputError, match="rows"):
        Crossbar(3, 4).replace(rows=0)


def test_configurations_are_frozen_and_hashable() -> None:
    assert len({Crossbar(3, 4), Crossbar(3, 4), Crossbar(3, 5)}) == 2
    with pytest.raises(AttributeError):
        Crossbar(3, 4).rows = 5  # type: ignore[misc]


def test_checks_of_numbers() -> None:
    check_number("x", 0, low=0.0)
    check_positive_int("n", 3, maximum=3)
    with pytest.raises(InputError, match=r"x: got 0; .*greater than 0 V"):
        check_number("x", 0, low=0.0, open_low=True, unit="V")
    for bad in (True, "1", None, float("nan"), float("inf"), -1):
        with pytest.raises(InputError, match="x: got"):
            check_number("x", bad, low=0.0)
    check_number("x", 1, low=0.0, high=1.0)
    with pytest.raises(InputError, match=r"x: got 1.5; it must be a finite number at least 0 and at most 1 V"):
        check_number("x", 1.5, low=0.0, high=1.0, unit="V")
    for bad in (0, 4, 1.0, True, "1"):
        with pytest.raises(InputError, match=r"n: got .*at least 1 and at most 3"):
            check_positive_int("n", bad, maximum=3)
