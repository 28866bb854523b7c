"""The ``geniex`` command: each verb is a file with one function, whose signature defines the verb's options."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jsonargparse

VERBS = {
    "doctor": "report which libraries, tools and data sets this machine has, and what is missing",
    "sweep": "solve crossbars with sampled voltages and conductances into an HDF5 data set; resumes after a stop",
    "train": "train a surrogate on a sweep, or calibrate a physics surrogate's error bound",
    "evaluate": "compare surrogates and analytic models with the exact currents of a sweep",
    "fit": "train a network on an image set, or prune or constrain a trained one and train it further",
    "predict": "predict a network's accuracy on crossbars, stage by stage",
    "remap": "move a network's kernels to where wires cost least; reports accuracy before and after",
    "study": "evaluate accuracy and costs of networks over a grid of settings; resumes after a stop",
    "finetune": "train a network through the crossbars that it will run on; reports accuracy before and after",
    "bench": "time geniex on this machine and check its results against references",
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status.

    0: success. 1: the reader of the output has closed the pipe. 2: wrong usage or input, reported in one line.
    130: interrupted.
    """
    try:
        status = _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe (``geniex ... | head``). Redirect the rest of the output to the null device, so
        # that the interpreter's own flush at exit does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _dispatch(argv: list[str]) -> int:
    from geniex.distribution import find_conflict

    if (mixed := find_conflict()) is not None and argv[:1] != ["doctor"]:
        return _refuse("geniex", mixed)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from geniex import __version__

        print(f"geniex {__version__}")
        return 0
    if argv[0] == "--import":
        return _with_module(argv[1:])
    verb = argv[0]
    if verb not in VERBS:
        return _refuse("geniex", f"unknown verb {verb!r}; the verbs are {', '.join(VERBS)}")
    return _run(verb, argv[1:])


def _with_module(argv: list[str]) -> int:
    """Import a user's module, such as one that registers a cell model, then run the verb that follows."""
    if len(argv) < 2:
        return _refuse("geniex", "--import: got no module or no verb; write geniex --import MODULE VERB ...")
    here = os.getcwd()
    if here not in sys.path:  # an installed script has its own folder there, not the user's
        sys.path.insert(0, here)
    try:
        importlib.import_module(argv[0])
    except ImportError as error:
        return _refuse("geniex", f"--import: got {argv[0]}; it cannot be imported ({error})")
    return _dispatch(argv[1:])


def _usage() -> str:
    lines = [
        "usage: geniex [--import MODULE] VERB [options]",
        "",
        "Memristive crossbars, from circuit to accuracy.",
        "",
    ]
    lines += [f"  {verb:<10} {what}" for verb, what in VERBS.items()]
    return "\n".join([*lines, "", "geniex VERB --help lists the options of a verb."])


def _run(verb: str, argv: list[str]) -> int:
    import jsonargparse

    from geniex.errors import GeniexError

    name = f"geniex {verb}"
    try:
        options = verb_parser(verb).instantiate(parse_options(verb, argv))
        with _plain_warnings(name):
            _function(verb)(**options.as_dict())
    except jsonargparse.ArgumentError as error:
        return _refuse(name, f"{_plain(str(error))} (options: {name} --help)")
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (GeniexError, OSError) as error:
        return _refuse(name, str(error))
    return 0


@contextmanager
def _plain_warnings(name: str) -> Iterator[None]:
    """Print each of geniex's warnings in one line, without the line of code that raised it."""
    from geniex.errors import ConvergenceWarning, ConversionWarning, UnitWarning

    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, (ConversionWarning, ConvergenceWarning, UnitWarning)):
            print(f"{name}: warning: {message}", file=sys.stderr)
        else:
            shown(message, category, *where, **options)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _plain(message: str) -> str:
    """jsonargparse's message about a value of the wrong type, shortened to the option, the value and the types."""
    key, value = re.search(r'Parser key "(.+?)"', message), re.search(r"(?:Got|Given) value: (.*)", message)
    kinds = re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", message)
    if key is None or value is None or not kinds:
        return message
    allowed = " or ".join(kind or f"one of {choices}" for kind, choices in kinds if kind != "NoneType")
    return f"{key[1]}: got {value[1]}; it must be {allowed}"


def _spelled(argv: list[str], function: Callable[..., None]) -> list[str]:
    """``argv`` in the parser's spelling: --held-out is --held_out, a bare switch is true, repeats extend a list."""
    parameters = inspect.signature(function).parameters
    out: list[str] = []
    for word, following in zip(argv, [*argv[1:], "--"], strict=False):
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name == "--":
            out.append(word)
            continue
        key = name[2:].replace("-", "_")
        grows = key in parameters and "list[" in str(parameters[key].annotation)
        out.append(f"--{key}{'+' if grows else ''}{equals}{value}")
        switch = key in parameters and isinstance(parameters[key].default, bool)
        if switch and not equals and following.lower() not in ("true", "false"):
            out.append("true")
    return out


def parse_options(verb: str, argv: list[str]) -> jsonargparse.Namespace:
    """The verb's options as ``argv`` gives them; raises ``jsonargparse.ArgumentError`` for an unknown option."""
    return verb_parser(verb).parse_args(_spelled(argv, _function(verb)))


def verb_parser(verb: str) -> jsonargparse.ArgumentParser:
    """The parser of a verb's options, built from its function's signature and docstring."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog=f"geniex {verb}", description=VERBS[verb], exit_on_error=False)
    parser.add_function_arguments(_function(verb), as_group=False, as_positional=True)
    return parser


def _function(verb: str) -> Callable[..., None]:
    return getattr(importlib.import_module(f"geniex.cli.{verb}"), verb)


def _refuse(name: str, why: str) -> int:
    """Print in one line why nothing was done and return exit status 2."""
    print(f"{name}: {' '.join(why.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
