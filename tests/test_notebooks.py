"""What is saved in the notebooks is fit to be read: whole, in order, small, and without traces of a machine.

Their code runs, and its assertions are checked, in `make test`.
"""

import ast
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 500_000
"""Bytes of a notebook with its pictures, so that it can be shown and compared in a browser."""
PLACES = re.compile(r"/(tmp|home|root|work|Users|var|private)/|\w:\\")

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _code(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def _outputs(path: Path) -> list[dict[str, Any]]:
    return [output for cell in _code(path) for output in cell["outputs"]]


def test_what_is_imported_is_there(path: Path) -> None:
    """A moved module is noticed by the fast tests, before the notebook is run."""
    lines = [line for cell in _code(path) for line in "".join(cell["source"]).splitlines() if line[:1] != "%"]
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == [], node.module


def test_links_lead_somewhere(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_was_run_from_the_first_to_the_last_cell(path: Path) -> None:
    counts = [cell["execution_count"] for cell in _code(path)]
    assert counts == list(range(1, len(counts) + 1))


def test_outputs_are_results_and_no_warnings_or_errors(path: Path) -> None:
    assert [o for o in _outputs(path) if o["output_type"] == "error" or o.get("name") == "stderr"] == []
    assert any("image/png" in output.get("data", {}) for output in _outputs(path))


def test_tells_nothing_of_the_machine_it_ran_on(path: Path) -> None:
    texts = ["".join(o.get("text", [])) + "".join(o.get("data", {}).get("text/plain", [])) for o in _outputs(path)]
    assert [text for text in texts if PLACES.search(text)] == []


def test_is_small_enough_to_be_read(path: Path) -> None:
    assert path.stat().st_size < LARGEST
