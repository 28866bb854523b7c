"""``geniex bench``: geniex beside its rivals, timed and checked in one run."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape

from geniex.cli._console import report_console
from geniex.cli._files import check_file, check_folder, write_json
from geniex.config import check_positive_int, check_seed
from geniex.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

_ONLY = {
    "solver": ("threads", "ngspice", "ngspice_arrays", "superlu_arrays"),
    "surrogate": ("surrogate", "tiles", "vectors", "chunk", "pareto"),
    "inference": ("threads", "workload", "emulator", "device"),
}
"""Options that not all benchmarks have."""


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
    """Time and check geniex beside its rivals; each figure is printed beside the project's bar for it.

    Args:
        what: "solver" is the exact circuit solver beside SuperLU Newton, badcrossbar and ngspice; "surrogate" is
            what a read costs, and how wrong it is, from the ideal product over surrogates to the exact circuit;
            "inference" is layers and whole networks on crossbars beside torch's float ones.
        sizes: rows and columns of the tiles; default: [16,32,64,128,256] for the solver, about a quarter of an
            hour, and [32,64,128] for surrogates and inference, of which 64 is that of most inference figures.
        threads: torch threads. Solver: all is timed for each, rivals on one core only with the first; default:
            one, and all cores. Inference: those of layers, then those of networks; default: [1,2]. Surrogates are
            timed on one.
        quick: tiles up to 64x64, one thread, few repeats and random arrays: within a minute. Inference: few
            settings, and not the largest network.
        repeats: timed rounds, in which the contenders take turns; slow ones run fewer.
        ngspice: solver: whether ngspice takes part.
        ngspice_arrays: solver: random arrays up to 32x32 compared with ngspice; five of 64x64 come on top.
        superlu_arrays: solver: random arrays up to 128x128 compared with SuperLU Newton.
        surrogate: surrogate: a checkpoint's path or a shipped name that takes part beside those that ship; give
            the option once for each.
        tiles: surrogate: tiles that are programmed together and read with the same vectors.
        vectors: surrogate: vectors of each tile in a timed round; slow models are given fewer.
        chunk: surrogate: vectors in one read.
        pareto: surrogate: folder for error against read cost, as a table (Markdown) and pictures (PNG).
        workload: inference: linear, conv, fashion-cnn or resnet18; give the option once for each; default: all.
        emulator: inference: ideal, ideal-lossless (an ADC that never clips), linear, physics-fast, physics,
            geniex-mlp or circuit (a few vectors of layers); give the option once for each; default: all.
        device: inference: where to compute, such as cpu or cuda.
        memory: whether to measure peak memory, each in a process of its own.
        seed: of all random arrays.
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
    console = report_console()
    for table in tables:
        console.print(table)
    for note in report.notes:
        console.print(f"Note: {note}", highlight=False, markup=False)
    console.print(f"{time.perf_counter() - began:.0f} s on {_machine(report.machine)}", highlight=False, markup=False)
    write_json(json, report.to_dict())
    if pareto is not None:
        from geniex.study.bench.pareto import write_pareto

        for path in write_pareto(report, pareto):
            console.print(path, highlight=False, markup=False)


def _check_only(what: str, given: Mapping[str, Any]) -> None:
    """Raise ``InputError`` where an option of another benchmark was given: it would do nothing."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(bench).parameters.items()}
    for name in dict.fromkeys(name for names in _ONLY.values() for name in names):
        owners = [f"`geniex bench {other}`" for other, names in _ONLY.items() if name in names]
        if name not in _ONLY[what] and given[name] != defaults[name]:
            raise InputError(name, given[name], f"it is an option of {' and '.join(owners)}, not of {what}")


def _solver(given: Mapping[str, Any], say: Callable[[str], None]) -> tuple[Any, Iterable[Table]]:
    from geniex.cli._bench_solver import solver_tables
    from geniex.study.bench.report import Settings
    from geniex.study.bench.solver import bench_solver
    from geniex.study.bench.timing import cores

    kept = ("repeats", "ngspice", "ngspice_arrays", "superlu_arrays", "memory", "seed")
    settings = Settings(
        sizes=tuple(sorted(set(given["sizes"] or Settings.sizes))),
        threads=tuple(dict.fromkeys(given["threads"] or (1, cores()))),
        **{name: given[name] for name in kept},
    )
    report = bench_solver(settings.quick() if given["quick"] else settings, say)
    return report, solver_tables(report)


def _surrogate(given: Mapping[str, Any], say: Callable[[str], None]) -> tuple[Any, Iterable[Table]]:
    from geniex.cli._bench_surrogate import surrogate_tables
    from geniex.study.bench.surrogate import bench_surrogate
    from geniex.study.bench.surrogate_report import SurrogateSettings

    kept = ("tiles", "vectors", "chunk", "repeats", "memory", "seed")
    settings = SurrogateSettings(
        sizes=tuple(sorted(set(given["sizes"] or SurrogateSettings.sizes))),
        surrogates=tuple(given["surrogate"] or ()),
        **{name: given[name] for name in kept},
    )
    report = bench_surrogate(settings.quick() if given["quick"] else settings, say)
    return report, surrogate_tables(report)


def _inference(given: Mapping[str, Any], say: Callable[[str], None]) -> tuple[Any, Iterable[Table]]:
    from geniex.cli._bench_inference import inference_tables
    from geniex.cli._device import checked_device
    from geniex.study.bench.inference import bench_inference
    from geniex.study.bench.inference_cases import WORKLOADS
    from geniex.study.bench.inference_models import EMULATORS
    from geniex.study.bench.inference_report import InferenceSettings

    threads = tuple(given["threads"] or InferenceSettings.threads)
    if len(threads) > 2:
        raise InputError("threads", list(threads), "give one number, or one for layers and one for networks")
    settings = InferenceSettings(
        workloads=tuple(WORKLOADS[name] for name in _named("workload", given, WORKLOADS)),
        emulators=_named("emulator", given, EMULATORS),
        sizes=tuple(sorted(set(given["sizes"] or InferenceSettings.sizes))),
        threads=(threads[0], threads[-1]),
        device=str(checked_device(given["device"])),
        **{name: given[name] for name in ("repeats", "memory", "seed")},
    )
    report = bench_inference(settings.quick() if given["quick"] else settings, say)
    return report, inference_tables(report)


def _named(option: str, given: Mapping[str, Any], known: Iterable[str]) -> tuple[str, ...]:
    """The known names in their order, or those of them that were given."""
    known, wanted = tuple(known), given[option] or ()
    for name in wanted:
        if name not in known:
            raise InputError(option, repr(name), f"it must be one of {', '.join(known)}")
    return tuple(name for name in known if name in wanted or not wanted)


@contextmanager
def _telling(began: float) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done: in place on a terminal, else line by line."""
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
    """The machine and the versions of a report in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = machine["load_average"]
    busy = "" if load is None else f", load average {load[0]:.1f} before the run"
    return f"{machine['processor']}, {machine['cores']} cores{busy}; {versions}"
