"""The bars of all benchmarks: met by good figures, missed by poor ones, and open where nothing was measured."""

import dataclasses

from made_up_reports import make_report, make_row
from rivals_and_bars.extension import Checkout
from rivals_and_bars.inference_bars import inference_bars
from rivals_and_bars.solver_bars import solver_bars
from rivals_and_bars.surrogate_bars import surrogate_bars

from geniex.bench.additions import Bar
from geniex.bench.inference_models import LOSSLESS, MLP
from geniex.bench.inference_report import InferenceReport, InferenceRow, InferenceSettings
from geniex.bench.solver import bench_solver
from geniex.bench.solver_report import SolverSettings
from geniex.bench.surrogate_report import (
    CONCATENATED,
    FACTORED,
    FAST,
    IDEAL,
    PHYSICS,
    SurrogateReport,
    SurrogateRow,
    SurrogateSettings,
)


def test_bars_are_met_missed_or_not_measured() -> None:
    below = Bar("time", "ms", 2.0, 1.0)
    assert below.met
    assert dataclasses.replace(below, measured=3.0).met is False
    assert dataclasses.replace(below, measured=None).met is None
    assert dataclasses.replace(below, at_least=True).met is False
    assert dataclasses.replace(below, partial="3 of 5").met is None
    assert dataclasses.replace(below, measured=3.0, partial="3 of 5").met is False


def test_a_slow_or_wrong_solver_misses_its_bars() -> None:
    settings = SolverSettings(sizes=(5,), repeats=1, patience=0.0, ngspice=False, superlu_arrays=0, memory=False)
    report = bench_solver(settings, extension=Checkout())
    rows = [row for row in report.rows if row.size == 5]
    slow = [dataclasses.replace(r, size=64, seconds_per_vector=1.0, ratio=50.0, error=1e-3) for r in rows]
    fast = [dataclasses.replace(r, size=64, seconds_per_vector=1e-4, ratio=5e4, error=1e-12) for r in rows]
    name = "64x64 sinh hard, 100 vectors"
    faster = "faster than SuperLU, 64x64 sinh, 100 vectors"
    for given, met in ((slow, False), (fast, True)):
        bars = {bar.figure: bar for bar in solver_bars(dataclasses.replace(report, rows=tuple(given)))}
        assert [bars[f].met for f in (name, faster, "error of the timed cases")] == [met] * 3
        assert bars["128x128 sinh easy, 100 vectors"].met is None


def _inference_report(*rows: InferenceRow, **changes: object) -> InferenceReport:
    return make_report(dataclasses.replace(InferenceSettings(), **changes), *rows)  # type: ignore[arg-type]


def _all_inference_rows(scale: float, threads: int = 1) -> list[InferenceRow]:
    network = {
        "workload": "resnet18",
        "bits": 8,
        "signed": False,
        "program_seconds": 59 * scale,
        "threads": 2 * threads,
    }
    one_bit = {"slice_bits": 2, "stream_bits": 1, "threads": threads}
    return [
        *(
            make_row(n, ms * scale, threads=threads)
            for n, ms in ((IDEAL, 39), (FAST, 249), (MLP, 299), (PHYSICS, 2190))
        ),
        *(
            make_row(n, ms * scale, threads=threads, signed=False)
            for n, ms in ((IDEAL, 19), (FAST, 124), (MLP, 149), (PHYSICS, 1090))
        ),
        make_row(LOSSLESS, 9 * scale, threads=threads),
        make_row(IDEAL, 129 * scale, **one_bit),
        make_row(FAST, 199 * scale, bits=8, **one_bit),
        make_row(FAST, 9900 * scale, peak_bytes=int(3.9e9 * scale), **network),
    ]


def test_inference_bars_are_met_and_missed() -> None:
    assert [bar.met for bar in inference_bars(_inference_report(*_all_inference_rows(1.0)))] == [True] * 14
    assert [bar.met for bar in inference_bars(_inference_report(*_all_inference_rows(1.2)))] == [False] * 14
    assert {bar.met for bar in inference_bars(_inference_report())} == {None}


def test_inference_bars_are_for_a_cpu_and_so_many_cores() -> None:
    assert {bar.met for bar in inference_bars(_inference_report(*_all_inference_rows(1.0), device="cuda"))} == {None}
    more = inference_bars(_inference_report(*_all_inference_rows(1.0, threads=2)))
    assert {bar.met for bar in more} == {None}
    assert {bar.partial for bar in more} == {"2 threads", "4 threads"}
    assert {bar.met for bar in inference_bars(_inference_report(*_all_inference_rows(1.2, threads=2)))} == {False}


def _surrogate_row(
    model: str, microseconds: float, nf_rmse_pp: float | None = None, p999: float | None = None
) -> SurrogateRow:
    figures = dict.fromkeys([f.name for f in dataclasses.fields(SurrogateRow)])
    known = {"size": 64, "stream_bits": 4, "model": model, "seconds_per_read": 1e-6 * microseconds}
    return SurrogateRow(**(figures | known | {"nf_rmse_pp": nf_rmse_pp, "relative_p999": p999}))  # type: ignore[arg-type]


def _surrogate_report(*rows: SurrogateRow) -> SurrogateReport:
    return SurrogateReport(SurrogateSettings(), {"processor": "P", "versions": {"torch": "T"}}, (), rows)


def test_surrogate_bars_are_met_and_missed() -> None:
    def met(*rows: SurrogateRow) -> list[bool | None]:
        return [bar.met for bar in surrogate_bars(_surrogate_report(*rows))]

    mlp = [_surrogate_row(FACTORED, 1.2), _surrogate_row(CONCATENATED, 57.0)]
    good = [_surrogate_row(FAST, 1.1, 0.04), _surrogate_row(PHYSICS, 13.0, 0.004, 4e-4)]
    poor = [_surrogate_row(FAST, 3.0, 0.06), _surrogate_row(PHYSICS, 15.0, 0.006, 6e-4)]
    assert met(*mlp, *good) == [True] * 6
    assert met(*mlp, *poor) == [False] * 6
    assert set(met(*mlp)) == {None}
    assert set(met(*(dataclasses.replace(row, size=32) for row in (*mlp, *good)))) == {None}
