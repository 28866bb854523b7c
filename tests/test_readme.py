"""The README keeps its word: its Python runs, its commands and links exist."""

import re
import shlex
import subprocess
from pathlib import Path

import jsonargparse
import pytest
import torch

from geniex.cli.main import VERBS, parse_options

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    line
    for language, text in BLOCKS
    if language == "sh"
    for line in text.replace("\\\n", " ").splitlines()
    if line.strip()
]


def test_there_are_examples() -> None:
    assert PYTHON
    assert {shlex.split(command)[0] for command in COMMANDS} == {"make", "pip", "geniex"}


@pytest.mark.parametrize("source", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    exec(compile(source, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert "%" in printed
    assert "nan" not in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_there(command: str) -> None:
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program == "geniex":
        try:
            parse_options(arguments[0], arguments[1:])
        except jsonargparse.ArgumentError as error:
            pytest.fail(f"{command}: {error}")


def test_the_table_of_verbs_is_complete() -> None:
    assert re.findall(r"^\| `geniex (\w+)` \|", README, flags=re.MULTILINE) == list(VERBS)


def test_files_that_are_named_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    data = re.findall(r"\bspice_data/[\w./-]+", README)
    assert links
    assert [name for name in links + data if not (ROOT / name).exists()] == []
