"""The ``geniex`` command: one verb a file, each a function whose signature is its options."""

from __future__ import annotations

import importlib
import sys

VERBS = {
    "doctor": "what this machine has, and what is missing for what",
    "sweep": "solve sampled (V, G) into an HDF5 data set; resumes where it was stopped",
    "train": "train a surrogate on a sweep",
    "evaluate": "compare surrogates and analytic models with a sweep's exact currents",
    "fit": "train the small CNN that the studies use",
    "predict": "predict a network's accuracy on crossbars, stage by stage",
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 2 a clear error in one line, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from geniex import __version__

        print(f"geniex {__version__}")
        return 0
    verb = argv[0]
    if verb not in VERBS:
        print(f"geniex: unknown verb {verb!r}; verbs are {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return _run(verb, argv[1:])


def _usage() -> str:
    lines = ["usage: geniex VERB [options]", "", "Memristive crossbars, from circuit to accuracy.", ""]
    lines += [f"  {verb:<10} {what}" for verb, what in VERBS.items()]
    return "\n".join([*lines, "", "geniex VERB --help tells a verb's options."])


def _run(verb: str, argv: list[str]) -> int:
    import jsonargparse

    from geniex.errors import GeniexError

    function = getattr(importlib.import_module(f"geniex.cli.{verb}"), verb)
    parser = jsonargparse.ArgumentParser(prog=f"geniex {verb}", description=VERBS[verb])
    parser.add_function_arguments(function, as_positional=True)
    arguments = parser.instantiate_classes(parser.parse_args(argv))
    try:
        function(**arguments.as_dict())
    except KeyboardInterrupt:
        print(f"geniex {verb}: interrupted", file=sys.stderr)
        return 130
    except (GeniexError, OSError) as error:
        print(f"geniex {verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
