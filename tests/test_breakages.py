"""The deliberate breakages of ``tests/benchmarks/breakages.py`` still fit the package; the script itself runs them."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

spec = importlib.util.spec_from_file_location("breakages", ROOT / "tests" / "benchmarks" / "breakages.py")
breakages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(breakages)


@pytest.mark.parametrize("breakage", breakages.BREAKAGES, ids=lambda breakage: breakage.room)
def test_the_line_stands_once_and_its_tests_are_there(breakage: Any) -> None:
    assert len(list(breakages.places(breakage.line))) == 1, f"mend or replace the breakage of: {breakage.line}"
    assert breakage.wrong != breakage.line
    for test in breakage.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), test
        assert not name or f"def {name}(" in (ROOT / path).read_text(), test


def test_every_room_is_broken() -> None:
    rooms = {folder.parent.name for folder in (ROOT / "geniex").glob("*/__init__.py")}
    assert rooms <= {breakage.room.partition("/")[0] for breakage in breakages.BREAKAGES}
