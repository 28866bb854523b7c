"""libngspice in this process, driven through PySpice; run as a script, this file is a worker.

A worker reads a job from standard input and answers on standard output, both in JSON (whose floats are exact):

    [{"netlist": text, "voltages": [[volt per row] per vector]} per tile]
    [{"currents": [[ampere per column] per solved vector], "error": text or null} per tile]

It imports only PySpice and the errors, so it is ready in a fraction of the time that importing torch takes.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from geniex.distribution import install_hint
from geniex.errors import MissingDependencyError, SpiceError

_NAMES = ("libngspice.so", "libngspice.so.0", "libngspice.dylib", "ngspice.dll")
"""Names of the library; on Debian it is libngspice.so in libngspice0-dev and libngspice.so.0 in libngspice0."""
_CHATTER = ("note:", "using sparse", "doing analysis", "no. of data rows", "circuit:", "reducing trtol")
"""Beginnings of lines that ngspice prints whether or not it succeeds."""


def missing_pyspice() -> MissingDependencyError:
    """The error that says how to install PySpice."""
    return MissingDependencyError("PySpice", "ngspice", install_hint("spice"))


def find_library() -> str:
    """The name or path under which the loader finds libngspice; ``NGSPICE_LIBRARY_PATH`` takes precedence."""
    asked = os.environ.get("NGSPICE_LIBRARY_PATH")
    for name in [asked] if asked else [*_NAMES, ctypes.util.find_library("ngspice")]:
        try:
            if name:
                ctypes.CDLL(name)
                return name
        except OSError:
            continue
    raise MissingDependencyError(
        f"the library of ngspice ({asked or 'libngspice.so'})",
        "ngspice",
        "on Debian and Ubuntu, run apt-get install ngspice libngspice0-dev;"
        " elsewhere, set NGSPICE_LIBRARY_PATH to the library's file",
    )


def ngspice_version() -> str | None:
    """The version of libngspice, such as "39"; None where it or PySpice is missing."""
    try:
        return str(_library().ngspice_version)
    except MissingDependencyError:
        return None


def solve_operating_points(netlist: str, voltages: Sequence[Sequence[float]]) -> Iterator[list[float]]:
    """Yields the ammeters' currents (columns) [A] for each vector of driver voltages (rows) [V] of one netlist.

    Raises ``SpiceError`` with ngspice's own words for the first vector that has no finite solution. Success is judged
    by the results alone, because ngspice and PySpice report warnings and notes as errors.
    """
    spice = _library()
    said = _said(spice, spice.load_circuit, netlist)
    try:
        for vector in voltages:
            # Only voltage sources follow "alter"; behavioural sources ignore it without a message.
            for i, volt in enumerate(vector):
                _said(spice, spice.exec_command, f"alter vdrive{i} dc = {volt!r}")
            yield _read(spice, said + _said(spice, spice.exec_command, "op"))
            _said(spice, spice.destroy)
    finally:
        # A circuit or a result left behind would be taken for the next one.
        _said(spice, spice.destroy)
        _said(spice, spice.remove_circuit)


@functools.cache
def _library() -> Any:
    """PySpice's handle of libngspice, of which a process can have only one."""
    try:
        from PySpice.Spice.NgSpice.Shared import NgSpiceShared
    except ImportError as error:
        raise missing_pyspice() from error
    # PySpice logs everything that ngspice prints as errors, such as "Using SPARSE 1.3".
    logging.getLogger("PySpice.Spice.NgSpice.Shared").setLevel(logging.CRITICAL)
    NgSpiceShared.LIBRARY_PATH = find_library()
    return NgSpiceShared.new_instance()


def _said(spice: Any, action: Callable[..., object], *args: str) -> list[str]:
    """The lines that ngspice prints in answer to ``action``, without the usual chatter."""
    # PySpice's errors are NameErrors, many of them for mere chatter, so the results are checked instead.
    with contextlib.suppress(NameError):
        action(*args)
    lines = (line.strip() for line in [*spice.stdout.splitlines(), *spice.stderr.splitlines()])
    return [line for line in lines if line and not line.lower().startswith(_CHATTER)]


def _read(spice: Any, said: list[str]) -> list[float]:
    name = spice.last_plot
    branches = spice.plot(None, name) if name.startswith("op") else {}
    found = {key: vector.to_waveform() for key, vector in branches.items()}
    try:
        currents = [float(found[f"vsense{j}#branch"][0]) for j in range(len(found))]
    except (KeyError, IndexError):
        currents = []
    if not currents:
        # The first lines say what is wrong with a netlist, the last ones why an analysis stopped.
        words = dict.fromkeys([*said[:2], *said[-3:]])
        raise SpiceError("ngspice found no operating point: " + ("; ".join(words) or "it printed no reason"))
    if not all(map(math.isfinite, currents)):
        raise SpiceError(f"ngspice returned column currents that are not finite: {currents}")
    return currents


def _answer(tile: dict[str, Any]) -> dict[str, Any]:
    currents: list[list[float]] = []
    try:
        currents.extend(solve_operating_points(tile["netlist"], tile["voltages"]))
    except SpiceError as error:
        return {"currents": currents, "error": str(error)}
    return {"currents": currents, "error": None}


def main() -> None:
    """Solve the job on standard input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # ngspice may print, so its output goes to standard error; only the answer goes where the caller reads.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with answers:
        json.dump([_answer(tile) for tile in json.load(sys.stdin)], answers)


if __name__ == "__main__":
    main()
