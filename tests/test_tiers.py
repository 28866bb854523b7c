"""`make check` and `make test`: both tiers together are all tests, and every room has fast ones."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = sorted(folder.parent.name for folder in (ROOT / "geniex").glob("*/__init__.py"))
SELECTS = re.compile(r"(?<!python )-[mk]\b|--(?:deselect|ignore|last-failed|lf|exitfirst|maxfail)\b")
"""Options that leave tests out."""


def _recipe(target: str) -> str:
    """What a target of the Makefile runs, its variables written out."""
    makefile = (ROOT / "Makefile").read_text()
    variables = dict(re.findall(r"^(\w+) :?\??= (.*)$", makefile, re.M))
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.M)[1]
    return re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], recipe)


def test_check_leaves_out_what_is_marked_slow_and_nothing_else() -> None:
    recipe = _recipe("check")
    assert re.findall(r'(?<!python )-m ("[^"]+")', recipe) == ['"not slow"']
    assert len(SELECTS.findall(recipe)) == recipe.count("pytest") == 1


def test_test_leaves_out_nothing_and_runs_the_notebooks() -> None:
    assert SELECTS.findall(_recipe("test")) == []
    assert "--nbmake" in _recipe("test")
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert SELECTS.findall(options["addopts"]) == []
    assert sorted(options["testpaths"]) == ["geniex", "notebooks", "tests"]
    # A path in a recipe would stand in for testpaths.
    for target in ("check", "test"):
        assert not re.search(r" (geniex|tests|notebooks)\b", _recipe(target))


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_fast_tests(room: str) -> None:
    fast = [name for path in (ROOT / "tests" / room).glob("test_*.py") for name in _fast(path)]
    assert fast, f"tests/{room} has no test that is not marked slow"


def _fast(path: Path) -> list[str]:
    """The functions of a file that have tests without the mark."""
    tree = ast.parse(path.read_text())
    marks = [node.value for node in tree.body if isinstance(node, ast.Assign) and _names(node) == ["pytestmark"]]
    if any("slow" in ast.unparse(mark) for mark in marks):
        return []
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return [test.name for test in tests if not any(ast.unparse(d) == "pytest.mark.slow" for d in test.decorator_list)]


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]
