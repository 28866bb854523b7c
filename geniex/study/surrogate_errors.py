"""Comparison of surrogates and analytic models with the exact currents of a sweep or a set of sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geniex.circuit import non_ideality_factor, shared_matmul
from geniex.circuit.metrics import relative_error
from geniex.errors import InputError
from geniex.study.breakdown import BREAKDOWNS, NO_BIN
from geniex.study.contenders import Block, Model, make_analytic_models, make_surrogate_models, read_blocks
from geniex.study.statistics import CurrentErrors, compute_nf_error, summarise
from geniex.surrogate import Surrogate, load_surrogate, split_tiles
from geniex.sweep import SweepFile, SweepIndex, TileCircuits, open_sweep

CALIBRATION = 8
"""Exact solutions of each array on which the alpha-beta model is fitted."""

Data = str | Path | SweepFile | SweepIndex
Surrogates = Sequence[str | Path | Surrogate] | Mapping[str, Surrogate]


@dataclass(frozen=True)
class BinErrors:
    """One model's errors over the columns of one bin."""

    by: str
    """Breakdown, a key of ``geniex.study.breakdown.BREAKDOWNS``."""
    label: str
    """Label of the bin."""
    errors: CurrentErrors


@dataclass(frozen=True)
class WorstCircuit:
    """The tile with the largest error of a model, over the tile's vectors and columns."""

    file: str
    """Name of the sweep file."""
    tile: int
    """Index of the tile in the file."""
    nf_rmse_pp: float
    """NF-RMSE of the model on this tile only, percent points."""
    rows: int
    cols: int
    cell: str
    """Type of the cell."""
    scalars: dict[str, float]
    """Scalars of the circuit by name: resistances in ohm, voltages in volt, and the on/off ratio."""

    def __str__(self) -> str:
        scalars = ", ".join(f"{name} {value:.4g}" for name, value in self.scalars.items())
        return f"{self.rows}x{self.cols} {self.cell}, {scalars} (tile {self.tile} of {self.file})"


@dataclass(frozen=True)
class EvaluationRow:
    """One model's errors."""

    model: str
    """Name of the model: "ideal", "linear", "DMR", "alpha-beta", or the surrogate's name."""
    errors: CurrentErrors
    """Errors over all compared columns."""
    seen: bool
    """Whether the model was trained on some of the compared tiles, which makes its errors too small."""
    bins: tuple[BinErrors, ...]
    """Errors bin by bin; bins without columns are left out."""
    worst: WorstCircuit | None
    """Tile with the largest error; None if no tile has an NF."""

    def errors_in(self, by: str, label: str) -> CurrentErrors:
        """The errors in the bin ``label`` of the breakdown ``by``."""
        return next(b.errors for b in self.bins if (b.by, b.label) == (by, label))

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON-ready plain values."""
        bins = [{"by": b.by, "bin": b.label} | b.errors.to_dict() for b in self.bins]
        worst = None if self.worst is None else vars(self.worst)
        return {"model": self.model, "seen": self.seen} | self.errors.to_dict() | {"bins": bins, "worst": worst}


@dataclass(frozen=True)
class EvaluationReport:
    """Errors of several models on the same tiles."""

    data: str
    """Path of the sweep file or set."""
    digest: str
    """SHA-256 of the data."""
    files: int
    """Number of compared sweep files."""
    tiles: int
    """Number of compared tiles."""
    vectors: tuple[int, ...]
    """Input vectors of each tile; several numbers if files differ."""
    held_out: bool
    """Whether only tiles are compared that none of the surrogates was trained on."""
    calibration: int
    """Exact solutions of each tile on which the alpha-beta model was fitted."""
    rows: tuple[EvaluationRow, ...]
    """Rows, one for each model."""

    def labels(self, by: str) -> list[str]:
        """The bins of the breakdown ``by`` that hold columns, in order; all models share them."""
        return [b.label for b in self.rows[0].bins if b.by == by]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready plain values."""
        return vars(self) | {"vectors": list(self.vectors), "rows": [row.to_dict() for row in self.rows]}


@dataclass(frozen=True)
class Comparison:
    """A report with the non-ideality factors (NF) behind it, for plots."""

    report: EvaluationReport
    exact_nf: Tensor
    """NF of every column in the exact circuit, a fraction; NaN where I_ideal = 0."""
    predicted_nf: dict[str, Tensor]
    """NF of every column by each model, by the model's name."""


def evaluate_surrogates(
    data: Data, surrogates: Surrogates = (), *, held_out: bool = False, calibration: int = CALIBRATION
) -> EvaluationReport:
    """The errors of analytic models and each surrogate on a sweep's exact currents; ``compare`` has the arguments."""
    return compare(data, surrogates, held_out=held_out, calibration=calibration).report


def compare(
    data: Data,
    surrogates: Surrogates = (),
    *,
    held_out: bool = False,
    calibration: int = CALIBRATION,
    note: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """The errors of the ideal product, the exact linear array, DMR, alpha-beta and each surrogate on exact currents.

    Args:
        data: a sweep's HDF5 file, or the index (or folder) of a set of them.
        surrogates: names, paths, or loaded surrogates by name.
        held_out: compare only the test tiles of the surrogates' own split; ``data`` must then be the one file that
            they were trained on. Otherwise all tiles are compared.
        calibration: exact solutions of each tile on which the alpha-beta model is fitted; 0 leaves the model out.
        note: called with a description of the tiles under comparison.

    Raises:
        CheckpointError: a surrogate is damaged, or is for another crossbar, window or drive than the sweep's.
        InputError: ``calibration`` is 1 or negative; or ``held_out`` is set without a trained surrogate, on a set of
            files, or with surrogates of other training data or of different splits.
    """
    if calibration < 0 or calibration == 1:
        raise InputError(
            "calibration", calibration, "the fit of alpha and beta needs at least 2 solutions; 0 leaves this model out"
        )
    source = data if isinstance(data, SweepFile | SweepIndex) else open_sweep(data)
    files = [source] if isinstance(source, SweepFile) else source.files
    named = _named(surrogates)
    chosen = [(file, torch.arange(file.tiles)) for file in files]
    if held_out:
        chosen = [(_only(files), _held_out_tiles(_only(files), named))]
    models = make_analytic_models(calibration) | make_surrogate_models(named)
    found = []
    for file, tiles in chosen:
        for block in read_blocks(file, tiles):
            note(f"{file.path.name}, tiles {block.tiles[0]} to {block.tiles[-1]}")
            found.append(_measured(block, models))
    seen = {name for name, surrogate in named.items() if not held_out and _trained_on(surrogate, source)}
    report = EvaluationReport(
        data=str(source.path),
        digest=source.digest,
        files=len(files),
        tiles=sum(tiles.numel() for _, tiles in chosen),
        vectors=tuple(sorted({file.vectors for file in files})),
        held_out=held_out,
        calibration=calibration,
        rows=tuple(_row(name, found, name in seen) for name in models),
    )
    exact = torch.cat([part.exact_nf.flatten() for part in found])
    errors = {name: torch.cat([part.errors[name].nf.flatten() for part in found]) for name in models}
    return Comparison(report, exact, {name: exact + error for name, error in errors.items()})


class _Errors(NamedTuple):
    """One model's errors on a block, each (tiles, vectors, cols)."""

    nf: Tensor
    relative: Tensor


class _Measured(NamedTuple):
    """The figures of a block that are kept."""

    sweep: SweepFile
    tiles: Tensor
    """Indices of the tiles in the file (tiles,)."""
    circuits: TileCircuits
    exact_nf: Tensor
    """Exact NF (tiles, vectors, cols)."""
    bins: dict[str, Tensor]
    """Bin of each column (tiles, vectors, cols), by breakdown."""
    errors: dict[str, _Errors]
    """Errors by model."""


@torch.no_grad()
def _measured(block: Block, models: Mapping[str, Model]) -> _Measured:
    ideal = shared_matmul(block.voltages, block.conductances)
    errors = {}
    for name, model in models.items():
        predicted = model(block)
        errors[name] = _Errors(
            compute_nf_error(ideal, block.currents, predicted), relative_error(block.currents, predicted)
        )
    bins = {by: breakdown.bins(block) for by, breakdown in BREAKDOWNS.items()}
    exact = non_ideality_factor(ideal, block.currents)
    return _Measured(block.sweep, block.tiles, block.circuits, exact, bins, errors)


def _row(model: str, found: Sequence[_Measured], seen: bool) -> EvaluationRow:
    nf, relative = (torch.cat([part.errors[model][k].flatten() for part in found]) for k in (0, 1))
    bins = []
    for by, breakdown in BREAKDOWNS.items():
        of = torch.cat([part.bins[by].flatten() for part in found])
        for k in of.unique().tolist():
            if k != NO_BIN:
                bins.append(BinErrors(by, breakdown.labels[k], summarise(nf[of == k], relative[of == k])))
    return EvaluationRow(model, summarise(nf, relative), seen, tuple(bins), _worst(model, found))


def _worst(model: str, found: Sequence[_Measured]) -> WorstCircuit | None:
    rmse = [100 * part.errors[model].nf.square().flatten(1).nanmean(1).sqrt() for part in found]
    every = torch.cat(rmse)
    if every.isnan().all():
        return None
    at = int(every.nan_to_num(nan=-1.0).argmax())
    for part, values in zip(found, rmse, strict=True):
        if at < len(values):
            return _circuit(part, at, values[at].item())
        at -= len(values)
    raise AssertionError("the worst tile is in one of the blocks")


def _circuit(part: _Measured, k: int, nf_rmse_pp: float) -> WorstCircuit:
    crossbar = part.sweep.crossbar
    names = ("r_source", "r_sink", "r_row", "r_col", "r_on", "on_off", "v_max", "v0", "r_access")
    return WorstCircuit(
        file=part.sweep.path.name,
        tile=int(part.tiles[k]),
        nf_rmse_pp=nf_rmse_pp,
        rows=crossbar.rows,
        cols=crossbar.cols,
        cell=type(crossbar.cell).__name__,
        scalars={name: value for name in names if (value := getattr(part.circuits, name)[k].item()) < float("inf")},
    )


def _named(surrogates: Surrogates) -> Mapping[str, Surrogate]:
    if isinstance(surrogates, Mapping):
        return surrogates
    named: dict[str, Surrogate] = {}
    for count, given in enumerate(surrogates, 1):
        name = str(given) if isinstance(given, str | Path) else f"{type(given).__name__} {count}"
        named[name] = load_surrogate(given)
    return named


def _only(files: Sequence[SweepFile]) -> SweepFile:
    if len(files) > 1:
        raise InputError(
            "held_out", True, "the split of a set of sweeps is unknown: give a set of unseen tiles instead"
        )
    return files[0]


def _held_out_tiles(sweep: SweepFile, named: Mapping[str, Surrogate]) -> Tensor:
    """The test tiles that all trained surrogates share; physics surrogates have no training, so they do not count."""
    trained = {name: surrogate for name, surrogate in named.items() if not surrogate.universal}
    if not trained:
        raise InputError("held_out", True, "give the trained surrogates whose test tiles are to be compared")
    for name, surrogate in trained.items():
        if not _trained_on(surrogate, sweep):
            raise InputError(
                "held_out",
                True,
                f"{name} was trained on other data, so that all of these tiles are new to it: leave held_out False",
            )
    seeds = {name: surrogate.info["split"]["seed"] for name, surrogate in trained.items()}
    if len(set(seeds.values())) > 1:
        raise InputError(
            "held_out", True, f"the surrogates have different splits (seeds {seeds}): compare them one at a time"
        )
    return split_tiles(sweep.tiles, next(iter(seeds.values()))).test


def _trained_on(surrogate: Surrogate, source: SweepFile | SweepIndex) -> bool:
    return surrogate.info.get("data", {}).get("digest") == source.digest
