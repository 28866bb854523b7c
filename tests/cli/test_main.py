"""The command's frame: what it imports, and how it fails."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from geniex.cli import main as command
from geniex.cli._tables import make_report_console
from geniex.errors import InputError


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("argv", [[], ["--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(argv: list[str]) -> None:
    code = f"import sys; from geniex.cli.main import main; main({argv}); print(*sys.modules)"
    *shown, modules = run_python(code).splitlines()
    assert shown[0].startswith(("usage: geniex", "geniex 0."))
    heavy = {"torch", "numpy", "lightning", "jsonargparse", "rich", "h5py", "matplotlib"}
    assert not heavy & set(modules.split())


HEAVY = {"lightning", "torchvision", "torchmetrics", "matplotlib", "PySpice", "ray", "sklearn", "pyarrow"}
"""Packages that take about as long to import as torch does, or longer; no verb needs one to tell its options."""
PLAIN = {"doctor", "evaluate", "bench", "fit", "train"}
"""Verbs whose options have plain types, so that their help needs neither torch nor h5py."""


@pytest.mark.parametrize("verb", command.VERBS)
def test_help_of_a_verb_imports_no_heavy_package(verb: str) -> None:
    code = (
        f"import sys; from geniex.cli.main import verb_parser; verb_parser({verb!r}).format_help(); print(*sys.modules)"
    )
    unwanted = HEAVY | {"torch", "h5py"} if verb in PLAIN else HEAVY
    assert unwanted & set(run_python(code).split()) == set()


def test_help_lists_the_verbs_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    files = {path.stem for path in Path(command.__file__).parent.glob("[!_]*.py")} - {"main"}
    assert set(listed) == files


@pytest.mark.parametrize("verb", command.VERBS)
def test_every_option_of_every_verb_has_help(verb: str) -> None:
    undocumented = [action.dest for action in command.verb_parser(verb)._actions if not action.help]
    assert undocumented == []


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> str:
    """A stand-in verb, so that the frame is tested without any real work."""

    def doctor(what: Path, times: int = 1, fail: str | None = None) -> None:
        """Stand in.

        Args:
            what: any path.
            times: how often to print it.
            fail: how to fail.
        """
        if fail == "input":
            raise InputError("r_wire", -1.0, "it must be\nat least 0 ohm")
        if fail == "file":
            what.read_text()
        if fail == "interrupt":
            raise KeyboardInterrupt
        if fail == "bug":
            raise RuntimeError("a bug keeps its traceback")
        for _ in range(times):
            print(what)

    module = types.ModuleType("geniex.cli.doctor")
    module.doctor = doctor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "geniex.cli.doctor", module)
    return "doctor"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "what"),
        (["a", "--tiems", "2"], "--tiems"),
        (["a", "--times", "2.5"], "2.5"),
        (["a", "--times", "many"], "many"),
        (["a", "b"], "b"),
        (["a", "--fail", "input"], "r_wire: got -1.0; it must be at least 0 ohm"),
        (["no/such/file", "--fail", "file"], "no/such/file"),
    ],
)
def test_wrong_usage_and_input_say_one_line_and_exit_2(
    verb: str, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([verb, *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("geniex doctor: ")
    assert said in err
    assert err.count("\n") == 1


def test_an_unknown_verb_names_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["swep"]) == 2
    err = capsys.readouterr().err
    assert "'swep'" in err
    assert "sweep" in err
    assert err.count("\n") == 1


def test_good_options_reach_the_verb_with_their_types(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([verb, "some/path", "--times", "2"]) == 0
    assert capsys.readouterr().out == "some/path\nsome/path\n"


def test_an_interrupt_exits_130_without_a_traceback(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([verb, "a", "--fail", "interrupt"]) == 130
    assert capsys.readouterr().err == "geniex doctor: interrupted\n"


def test_a_bug_is_not_hidden(verb: str) -> None:
    with pytest.raises(RuntimeError, match="traceback"):
        command.main([verb, "a", "--fail", "bug"])


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_ends_quietly(lines: int) -> None:
    # One line stays in the buffer until the end, 100,000 break the pipe within the verb.
    code = (
        "import sys, geniex.cli.main as command\n"
        f"command._usage = lambda: 'line\\n' * {lines}\n"
        "sys.stdin.read()\n"  # until we have closed the pipe
        "raise SystemExit(command.main(['--help']))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as writer:
        writer.stdout.close()
        writer.stdin.close()
        assert writer.stderr.read() == b""
    assert writer.returncode == 1


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        (["a.h5", "--held-out", "--json", "x-y.json"], ["a.h5", "--held_out", "true", "--json", "x-y.json"]),
        (["--held-out=false"], ["--held_out=false"]),
        (["--held_out", "false", "--json=a-b"], ["--held_out", "false", "--json=a-b"]),
        (["--no-such-option", "-1"], ["--no_such_option", "-1"]),
    ],
)
def test_options_may_be_spelled_with_dashes_and_switches_stand_alone(given: list[str], spelled: list[str]) -> None:
    def verb(data: Path, held_out: bool = False, json: Path | None = None) -> None: ...

    assert command._spelled(given, verb) == spelled


def test_reports_in_a_pipe_are_not_cut_to_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    make_report_console().print("x" * 150)
    assert capsys.readouterr().out.splitlines() == ["x" * 150]
