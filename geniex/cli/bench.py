"""``geniex bench``: the cost and the accuracy of geniex on this machine."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape

from geniex.cli._files import check_file, check_folder, write_json
from geniex.cli._tables import make_report_console
from geniex.config import check_positive_int, check_seed
from geniex.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

_ONLY = {
    "solver": ("threads", "ngspice", "ngspice_arrays", "superlu_arrays"),
    "surrogate": ("surrogate", "tiles", "vectors", "chunk", "pareto"),
    "inference": ("threads", "workload", "emulator", "device"),
}
"""Options that only some benchmarks have, by benchmark."""


def bench(
    what: Literal["solver", "surrogate", "inference"],
    sizes: list[int] | None = None,
    threads: list[int] | None = None,
    quick: bool = False,
    repeats: int = 5,
    ngspice: bool = True,
    ngspice_arrays: int = 110,
    superlu_arrays: int = 200,
    surrogate: list[str] | None = None,
    tiles: int = 16,
    vectors: int = 4096,
    chunk: int = 128,
    pareto: Path | None = None,
    workload: list[str] | None = None,
    emulator: list[str] | None = None,
    device: str = "cpu",
    memory: bool = True,
    seed: int = 0,
    json: Path | None = None,
) -> None:
    """Time and check geniex; in a checkout, beside its rivals and with the project's bars.

    Rival solvers (SuperLU Newton, badcrossbar, ngspice) and bars, the limits that the project sets for its figures,
    are part of a checkout (tests/benchmarks). An installed geniex times only itself, and a note says so.

    Args:
        what: the benchmark: "solver" times the exact circuit solver and checks it; "surrogate" measures the cost and
            the error of a read, for the ideal product, surrogates and the exact circuit; "inference" compares layers
            and whole networks on crossbars with torch's float ones.
        sizes: rows and columns of the tiles; default: [16,32,64,128,256] for the solver, about a quarter of an
            hour, and [32,64,128] for surrogates and inference, where most inference figures use 64.
        threads: number of torch threads. Solver: everything is timed with each number, single-core rivals only with
            the first; default: one, and all cores. Inference: one number for layers and one for networks;
            default: [1,2]. Surrogates are timed on one thread.
        quick: tiles up to 64x64, one thread, few repeats and few random arrays, within a minute. Inference: few
            settings, without the largest network.
        repeats: number of timed rounds, in which the contenders take turns; slow contenders run fewer.
        ngspice: solver: whether ngspice takes part.
        ngspice_arrays: solver: number of random arrays up to 32x32 compared with ngspice; five of 64x64 are added.
        superlu_arrays: solver: number of random arrays up to 128x128 compared with SuperLU Newton.
        surrogate: surrogate: additional surrogate to measure, a checkpoint's path or a shipped name; repeat the option
            for several.
        tiles: surrogate: number of tiles that are programmed together and read with the same vectors.
        vectors: surrogate: vectors per tile in a timed round; slow models get fewer.
        chunk: surrogate: vectors per read.
        pareto: surrogate: folder for a table (Markdown) and plots (PNG) of error against read cost.
        workload: inference: linear, conv, fashion-cnn or resnet18; repeat the option for several; default: all.
        emulator: inference: ideal, ideal-lossless (an ADC that never clips), linear, physics-fast, physics,
            geniex-mlp or circuit (layers only, a few vectors); repeat the option for several; default: all.
        device: inference: device to compute on, such as cpu or cuda.
        memory: whether to measure peak memory, each measurement in its own process.
        seed: seed for all random arrays.
        json: file for the machine-readable report.
    """
    given = dict(locals())
    _check_only(what, given)
    check_file("json", json)
    check_folder("pareto", pareto)
    for name, values in (("sizes", sizes or []), ("threads", threads or [])):
        for value in values:
            check_positive_int(name, value)
    for name in ("repeats", "tiles", "vectors", "chunk"):
        check_positive_int(name, given[name])
    for name in ("ngspice_arrays", "superlu_arrays"):
        if given[name] < 0:
            raise InputError(name, given[name], "it must be at least 0")
    check_seed(seed)
    began = time.perf_counter()
    run = {"solver": _solver, "surrogate": _surrogate, "inference": _inference}[what]
    with _telling(began) as say:
        report, tables = run(given, say)
    console = make_report_console()
    for table in tables:
        console.print(table)
    for note in report.notes:
        console.print(f"Note: {note}", highlight=False, markup=False)
    console.print(f"{time.perf_counter() - began:.0f} s on {_machine(report.machine)}", highlight=False, markup=False)
    write_json(json, report.to_dict())
    if pareto is not None:
        from geniex.bench.pareto import write_pareto

        for path in write_pareto(report, pareto):
            console.print(path, highlight=False, markup=False)


def _check_only(what: str, given: Mapping[str, Any]) -> None:
    """Raise ``InputError`` if an option of another benchmark was given, which would have no effect."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(bench).parameters.items()}
    for name in dict.fromkeys(name for names in _ONLY.values() for name in names):
        owners = [f"`geniex bench {other}`" for other, names in _ONLY.items() if name in names]
        if name not in _ONLY[what] and given[name] != defaults[name]:
            raise InputError(name, given[name], f"it is an option of {' and '.join(owners)}, not of {what}")


def _solver(given: Mapping[str, Any], say: Callable[[str], None]) -> tuple[Any, Iterable[Table]]:
    from geniex.bench.extension import load_extension
    from geniex.bench.solver import bench_solver
    from geniex.bench.solver_report import SolverSettings
    from geniex.bench.timing import count_cores
    from geniex.cli._bench_solver import make_solver_tables

    kept = ("repeats", "ngspice", "ngspice_arrays", "superlu_arrays", "memory", "seed")
    settings = SolverSettings(
        sizes=tuple(sorted(set(given["sizes"] or SolverSettings.sizes))),
        threads=tuple(dict.fromkeys(given["threads"] or (1, count_cores()))),
        **{name: given[name] for name in kept},
    )
    report = bench_solver(settings.quick() if given["quick"] else settings, say, load_extension())
    return report, make_solver_tables(report)


def _surrogate(given: Mapping[str, Any], say: Callable[[str], None]) -> tuple[Any, Iterable[Table]]:
    from geniex.bench.extension import load_extension
    from geniex.bench.surrogate import bench_surrogate
    from geniex.bench.surrogate_report import SurrogateSettings
    from geniex.cli._bench_surrogate import make_surrogate_tables

    kept = ("tiles", "vectors", "chunk", "repeats", "memory", "seed")
    settings = SurrogateSettings(
        sizes=tuple(sorted(set(given["sizes"] or SurrogateSettings.sizes))),
        surrogates=tuple(given["surrogate"] or ()),
        **{name: given[name] for name in kept},
    )
    report = bench_surrogate(settings.quick() if given["quick"] else settings, say, load_extension())
    return report, make_surrogate_tables(report)


def _inference(given: Mapping[str, Any], say: Callable[[str], None]) -> tuple[Any, Iterable[Table]]:
    from geniex.bench.extension import load_extension
    from geniex.bench.inference import bench_inference
    from geniex.bench.inference_cases import WORKLOADS
    from geniex.bench.inference_models import EMULATORS
    from geniex.bench.inference_report import InferenceSettings
    from geniex.cli._bench_inference import make_inference_tables
    from geniex.cli._device import check_device

    threads = tuple(given["threads"] or InferenceSettings.threads)
    if len(threads) > 2:
        raise InputError("threads", list(threads), "give one number, or two, for layers and for networks")
    settings = InferenceSettings(
        workloads=tuple(WORKLOADS[name] for name in _named("workload", given, WORKLOADS)),
        emulators=_named("emulator", given, EMULATORS),
        sizes=tuple(sorted(set(given["sizes"] or InferenceSettings.sizes))),
        threads=(threads[0], threads[-1]),
        device=str(check_device(given["device"])),
        **{name: given[name] for name in ("repeats", "memory", "seed")},
    )
    report = bench_inference(settings.quick() if given["quick"] else settings, say, load_extension())
    return report, make_inference_tables(report)


def _named(option: str, given: Mapping[str, Any], known: Iterable[str]) -> tuple[str, ...]:
    """The given names in the order of the known ones; all known names if none was given."""
    known, wanted = tuple(known), given[option] or ()
    for name in wanted:
        if name not in known:
            raise InputError(option, repr(name), f"it must be one of {', '.join(known)}")
    return tuple(name for name in known if name in wanted or not wanted)


@contextmanager
def _telling(began: float) -> Iterator[Callable[[str], None]]:
    """A function that shows the current step: in place on a terminal, otherwise line by line."""
    progress = Console(stderr=True)
    with progress.status("") as status:

        def say(text: str) -> None:
            status.update(escape(text))
            if not progress.is_terminal:
                progress.print(
                    f"{time.perf_counter() - began:4.0f} s  {text}", highlight=False, markup=False, soft_wrap=True
                )

        yield say


def _machine(machine: Mapping[str, Any]) -> str:
    """One line with a report's machine and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = machine["load_average"]
    busy = "" if load is None else f", load average {load[0]:.1f} before the run"
    return f"{machine['processor']}, {machine['cores']} cores{busy}; {versions}"
