"""Surrogates and analytic models against the exact currents of a sweep file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geniex.circuit import shared_matmul
from geniex.errors import CheckpointError, InputError
from geniex.study.statistics import CurrentErrors, current_errors
from geniex.surrogate import Surrogate, load_surrogate, split_tiles
from geniex.surrogate.tiles import read_blocks
from geniex.sweep import SweepFile

Model = Callable[[Tensor, Tensor], Tensor]
"""Currents (tiles, vectors, cols) from voltages (tiles, vectors, rows) and conductances (tiles, 1, rows, cols)."""


@dataclass(frozen=True)
class EvaluationRow:
    """One model's errors."""

    model: str
    """"ideal", "linear", or the surrogate's name."""
    errors: CurrentErrors
    """Its errors over all compared columns."""
    seen: bool
    """Whether the compared tiles include some that it was trained on, which flatters it."""


@dataclass(frozen=True)
class EvaluationReport:
    """Errors of several models on the same tiles of one sweep file."""

    data: str
    """Path of the sweep file."""
    digest: str
    """SHA-256 of its content."""
    tiles: int
    """Tiles compared."""
    vectors: int
    """Input vectors of each tile."""
    held_out: bool
    """Whether these are only the tiles that no surrogate here was trained on."""
    rows: tuple[EvaluationRow, ...]
    """One a model."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready plain values."""
        rows = [{"model": r.model, "seen": r.seen} | r.errors.to_dict() for r in self.rows]
        return vars(self) | {"rows": rows}


def evaluate_surrogates(
    data: str | Path | SweepFile,
    surrogates: Sequence[str | Path | Surrogate] | dict[str, Surrogate] = (),
    *,
    held_out: bool = False,
) -> EvaluationReport:
    """The errors of the ideal product, the exact linear array and each surrogate on a sweep's exact currents.

    Args:
        data: a sweep's HDF5 file.
        surrogates: names, paths, or loaded surrogates by name.
        held_out: compare only the test tiles of the surrogates' own split, which needs the data set that they
            were trained on; otherwise all tiles.

    Raises:
        CheckpointError: a surrogate of another crossbar, window or drive than the sweep's, or damaged.
        InputError: ``held_out`` without a surrogate, or with one that was trained on other data.
    """
    sweep = data if isinstance(data, SweepFile) else SweepFile(data)
    named = _named(surrogates)
    for name, surrogate in named.items():
        try:
            surrogate.check(sweep.crossbar, sweep.window, sweep.v_max)
        except CheckpointError as error:
            raise CheckpointError(f"surrogate {name}: {error}") from None
    tiles = _held_out_tiles(sweep, named) if held_out else torch.arange(sweep.tiles)
    models: dict[str, Model] = {
        "ideal": shared_matmul,
        "linear": lambda v, g: shared_matmul(v, sweep.crossbar.wires_response(g)),
        **named,
    }
    ideal, exact, predicted = _run(sweep, tiles, models)
    rows = tuple(
        EvaluationRow(
            name,
            current_errors(ideal, exact, predicted[name]),
            seen=name in named and not held_out and _trained_on(named[name], sweep),
        )
        for name in models
    )
    return EvaluationReport(str(sweep.path), sweep.digest, tiles.numel(), sweep.vectors, held_out, rows)


def _named(surrogates: Sequence[str | Path | Surrogate] | dict[str, Surrogate]) -> dict[str, Surrogate]:
    if isinstance(surrogates, dict):
        return surrogates
    named: dict[str, Surrogate] = {}
    for given in surrogates:
        if isinstance(given, Surrogate):
            named[f"{type(given).__name__} {len(named) + 1}"] = given
        else:
            named[str(given)] = load_surrogate(given)
    return named


def _held_out_tiles(sweep: SweepFile, named: dict[str, Surrogate]) -> Tensor:
    """The test tiles that all surrogates share."""
    if not named:
        raise InputError("held_out", True, "give the surrogates whose test tiles to compare")
    for name, surrogate in named.items():
        if not _trained_on(surrogate, sweep):
            raise InputError(
                "held_out",
                True,
                f"{name} was trained on other data, so that all tiles here are new to it: compare on all",
            )
    seeds = {name: surrogate.info["split"]["seed"] for name, surrogate in named.items()}
    if len(set(seeds.values())) > 1:
        raise InputError("held_out", True, f"the surrogates have different splits (seeds {seeds})")
    return split_tiles(sweep.tiles, next(iter(seeds.values()))).test


def _trained_on(surrogate: Surrogate, sweep: SweepFile) -> bool:
    return surrogate.info.get("data", {}).get("digest") == sweep.digest


@torch.no_grad()
def _run(sweep: SweepFile, tiles: Tensor, models: dict[str, Model]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Ideal, exact and every model's currents (tiles, vectors, cols) [A]."""
    ideal, exact = [], []
    predicted: dict[str, list[Tensor]] = {name: [] for name in models}
    for g, v, currents in read_blocks(sweep, tiles):
        g = g[:, None]  # (tiles, 1, rows, cols): shared by the tile's vectors
        ideal.append(shared_matmul(v, g))
        exact.append(currents)
        for name, model in models.items():
            predicted[name].append(model(v, g))
    return torch.cat(ideal), torch.cat(exact), {name: torch.cat(parts) for name, parts in predicted.items()}
