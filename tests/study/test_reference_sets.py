"""The shipped surrogates on the reference sets that ship: 224 arrays whose currents are ngspice's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from geniex.study.surrogate_errors import EvaluationReport, evaluate_surrogates
from geniex.surrogate import load_surrogate
from geniex.sweep import SweepFile, SweepIndex, open_sweep, run_sweep, run_sweep_set

# The surrogates are measured on every reference set.
pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[2] / "spice_data"
GENIEX = {"reference-16.h5": "geniex-mlp-16", "reference-32.h5": "geniex-mlp-32", "reference-64.h5": "geniex-mlp-64"}
SETS = (*GENIEX, "reference-64-0v5.h5", "reference-universal")
MARGIN = 1.5
"""Over the cards' figures, which are of thousands of tiles: some ten of them miss them by a tenth or two."""
PROMISED = {
    ("reference-16.h5", "geniex-mlp-16"): 0.754,
    ("reference-32.h5", "geniex-mlp-32"): 0.804,
    ("reference-64.h5", "geniex-mlp-64"): 1.04,
    # At 64 x 64; smaller arrays of the same wires are easier.
    ("reference-16.h5", "physics"): 0.0019,
    ("reference-32.h5", "physics"): 0.0019,
    ("reference-64.h5", "physics"): 0.0019,
    ("reference-64-0v5.h5", "physics"): 0.0071,
    ("reference-16.h5", "physics-fast"): 0.0052,
    ("reference-32.h5", "physics-fast"): 0.0052,
    ("reference-64.h5", "physics-fast"): 0.0052,
    ("reference-64-0v5.h5", "physics-fast"): 0.0284,
}
"""NF-RMSE against the exact circuit on held-out tiles, percent points, from the models' cards."""
PROMISED_ANYWHERE = {
    ("to 64x64, drive to 1", "physics"): 0.0038,
    ("to 64x64, drive above 1", "physics"): 0.0215,
    ("to 64x64, drive to 1", "physics-fast"): 0.0217,
    ("to 64x64, drive above 1", "physics-fast"): 0.151,
}
"""The same of circuits from the whole range, by drive."""


class Reports(NamedTuple):
    """The same models on the same arrays."""

    name: str
    ngspice: EvaluationReport
    native: EvaluationReport


def solved_natively(data: SweepFile | SweepIndex, folder: Path) -> SweepFile | SweepIndex:
    """The arrays of ``data`` with the native solver's currents: the samples follow from the seed alone."""
    if isinstance(data, SweepFile):
        return SweepFile(run_sweep(data.config.replace(engine="native"), folder / "native.h5", workers=1))
    common = data.set.common.replace(engine="native")
    return SweepIndex(run_sweep_set(data.set.replace(common=common), folder / "native", workers=1))


def assert_same_arrays(one: SweepFile | SweepIndex, other: SweepFile | SweepIndex) -> None:
    for a, b in zip(*((data,) if isinstance(data, SweepFile) else data.files for data in (one, other)), strict=True):
        (g, v, i), (same_g, same_v, near_i) = a.read(0, a.tiles), b.read(0, b.tiles)
        # Log-uniform windows go through exp, whose last bits are the processor's.
        torch.testing.assert_close(g, same_g, rtol=1e-12, atol=0)
        torch.testing.assert_close(v, same_v, rtol=1e-12, atol=0)
        assert not torch.equal(i, near_i)


@pytest.fixture(scope="module", params=SETS)
def reports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    data = open_sweep(DATA / request.param)
    native = solved_natively(data, tmp_path_factory.mktemp("native"))
    assert_same_arrays(data, native)
    names = ["physics", "physics-fast", *filter(None, [GENIEX.get(request.param)])]
    surrogates = {name: load_surrogate(name) for name in names}
    of_each = (evaluate_surrogates(currents, surrogates, calibration=0) for currents in (data, native))
    return Reports(request.param, *of_each)


def test_errors_against_ngspice_are_the_cards(reports: Reports) -> None:
    for row in reports.ngspice.rows:
        if (reports.name, row.model) in PROMISED:
            assert row.errors.nf_rmse_pp < MARGIN * PROMISED[reports.name, row.model], row.model
        if reports.name == "reference-universal" and row.model.startswith("physics"):
            for label in reports.ngspice.labels("range"):
                bar = MARGIN * PROMISED_ANYWHERE[label, row.model]
                assert row.errors_in("range", label).nf_rmse_pp < bar, (row.model, label)
        # None of these tiles took part in any training.
        assert not row.seen


def test_errors_against_ngspice_are_those_against_the_native_solver(reports: Reports) -> None:
    # A tenth is what the project promises; solvers that agree to 1e-9 hold far more of the most accurate model.
    for spice, native in zip(reports.ngspice.rows, reports.native.rows, strict=True):
        assert spice.model == native.model
        assert spice.errors.nf_rmse_pp == pytest.approx(native.errors.nf_rmse_pp, rel=1e-3)
        assert spice.errors.relative_rms == pytest.approx(native.errors.relative_rms, rel=1e-3)


def test_what_is_ours_beats_the_network_of_geniex(reports: Reports) -> None:
    errors = {row.model: row.errors.nf_rmse_pp for row in reports.ngspice.rows}
    if reports.name in GENIEX:
        assert errors["physics"] < errors[GENIEX[reports.name]] / 100
    assert errors["physics"] < errors["physics-fast"] < errors["linear"] / 100
