"""The tables of a study: a row for each network, and a summary over networks beside a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from geniex import __version__
from geniex.errors import InputError
from geniex.study.explore.counts import COUNTS
from geniex.study.explore.plan import Cell, PlannedRun, StudyPlan
from geniex.study.statistics import bootstrap_mean, mean_interval, wilson_interval

_ERROR = ("logit_error", "logit_error_low", "logit_error_high")
Row = dict[str, Any]
"""Columns by name: numbers, words, None where there is no value."""


@dataclass(frozen=True)
class Results:
    """What the jobs gave, by key."""

    found: Mapping[str, Mapping[str, Any]]
    errors: Mapping[str, str]


@dataclass(frozen=True)
class Study:
    """What ``run_study`` found."""

    title: str
    about: str
    axes: tuple[str, ...]
    """Dotted names of what was varied; columns of both tables."""
    baseline: dict[str, Any]
    rows: tuple[Row, ...]
    """One a cell, network and draw of devices: the axes' values, "training" (the network), "draw", "images", "correct",
    "accuracy" with "low" and "high" (95 % Wilson interval over the images), "float_accuracy", "ideal_accuracy" (ideal
    tiles, same architecture), "drop" (ideal less accuracy), "logit_error" (RMS distance of the logits from those in
    floating point, over the RMS of these) with "logit_error_low"... (95 % bootstrap over the images),
    "ideal_logit_error", "arrays", "reads", "adc_conversions", "static_energy" [J] of an image, "seconds", "error"
    (None, or why there is nothing else)."""
    summary: tuple[Row, ...]
    """One a cell: means over its networks and draws; "low" and "high" end the 95 % interval of "accuracy", as do
    "drop_low"... of "drop", "logit_error_low"..., and "difference_low"... of "difference" (accuracy above the
    baseline's, on the same images, in pairs); "interval" tells over what: "networks" or "draws" (Student's t), or
    "images" of the only one."""
    configuration: dict[str, Any] = field(repr=False)
    missing: tuple[str, ...] = ()
    """What could not be written for want of an optional package, a line each."""

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows without a result."""
        return tuple(row for row in self.rows if row["error"] is not None)

    def cell(self, **labels: Any) -> Row:
        """The summary of the one cell with these values of axes; dots in names are written as "__"."""
        wanted = {name.replace("__", "."): value for name, value in labels.items()}
        alike = [row for row in self.summary if all(row.get(name) == value for name, value in wanted.items())]
        if len(alike) != 1:
            raise InputError("labels", wanted, f"{len(alike)} cells have them; axes are {', '.join(self.axes)}")
        return alike[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "title": self.title,
            "about": self.about,
            "axes": list(self.axes),
            "baseline": self.baseline,
            "rows": list(self.rows),
            "summary": list(self.summary),
            "configuration": self.configuration,
        }


def tabulated(plan: StudyPlan, results: Results, device: str) -> Study:
    """The tables of a plan whose jobs were run."""
    told = {
        "geniex_version": __version__,
        "torch_version": torch.__version__,
        "device": device,
        "asked": plan.spec.asked,
        "cells": [
            {"part": cell.part, "labels": cell.labels, "settings": cell.settings.to_dict()} for cell in plan.cells
        ],
    }
    return Study(
        plan.spec.title,
        plan.spec.about,
        plan.spec.axes,
        plan.spec.baseline,
        tuple(_row(plan, cell, run, results) for cell in plan.cells for run in cell.runs),
        tuple(_summary(plan, cell, results) for cell in plan.cells),
        told,
    )


def columns(rows: Sequence[Row]) -> list[str]:
    """The names of a table's columns."""
    return list(rows[0]) if rows else []


def _head(plan: StudyPlan, cell: Cell) -> Row:
    part = {"part": cell.part} if len(plan.spec.parts) > 1 else {}
    return part | {name: cell.labels[name] for name in plan.spec.axes}


def _row(plan: StudyPlan, cell: Cell, run: PlannedRun, results: Results) -> Row:
    row = _head(plan, cell) | {"training": run.network, "draw": run.draw}
    names = ("images", "correct", "accuracy", "low", "high", "float_accuracy", "ideal_accuracy", "drop")
    row |= dict.fromkeys((*names, *_ERROR, "ideal_logit_error", *COUNTS, "seconds", "error"))
    found = results.found.get(run.job.key)
    if found is None:
        return row | {"error": results.errors.get(run.job.key, "its result was lost")}
    right = _right(found)
    low, high = wilson_interval(int(right.sum()), len(right))
    accuracy, ideal = _share(right), _reference(results, run.ideal.key)
    row |= {"images": len(right), "correct": int(right.sum()), "accuracy": accuracy, "low": low, "high": high}
    row |= {"float_accuracy": _reference(results, run.floating.key), "ideal_accuracy": ideal}
    row |= {"drop": None if ideal is None else ideal - accuracy, "seconds": found["seconds"]}
    row |= dict(zip(_ERROR, found["logit_error"], strict=True))
    row |= {"ideal_logit_error": _reference_error(results, run.ideal.key)}
    return row | {name: found.get(name) for name in COUNTS}


def _summary(plan: StudyPlan, cell: Cell, results: Results) -> Row:
    runs = [run for run in cell.runs if run.job.key in results.found]
    row: Row = _head(plan, cell) | {"trainings": len(cell.settings.networks), "draws": cell.settings.draws}
    row |= {"failed": len(cell.runs) - len(runs), "images": None, "interval": None}
    own = {(run.network, run.draw): _right(results.found[run.job.key]) for run in runs}
    row |= {"images": len(next(iter(own.values()))), "interval": _unit(own)} if own else {}
    row |= _with_interval("accuracy", own, "")
    row |= {
        name: _mean([_reference(results, getattr(run, kind).key) for run in runs])
        for name, kind in (("float_accuracy", "floating"), ("ideal_accuracy", "ideal"))
    }
    ideal = {(run.network, run.draw): results.found.get(run.ideal.key) for run in runs}
    drops = {key: _right(there) - own[key] for key, there in ideal.items() if there is not None}
    row |= _with_interval("drop", drops, "drop_")
    row |= _error({(run.network, run.draw): results.found[run.job.key]["logit_error"] for run in runs})
    row |= {"ideal_logit_error": _mean([_reference_error(results, run.ideal.key) for run in runs])}
    if plan.spec.baseline:
        row |= _with_interval("difference", _above(plan, cell, own, results), "difference_")
    for name in (*COUNTS, "seconds"):
        row[name] = _mean([results.found[run.job.key].get(name) for run in runs])
    return row


def _above(
    plan: StudyPlan, cell: Cell, own: Mapping[tuple[str, int], Tensor], results: Results
) -> dict[tuple[str, int], Tensor]:
    """How much more is right (images,) than in the baseline, in pairs of trainings and draws, on the images of both."""
    other = plan.baseline(cell)
    if other is None:
        return {}
    partner = dict(zip(cell.settings.networks, other.settings.networks, strict=True))
    there = {(run.network, run.draw): results.found.get(run.job.key) for run in other.runs}
    apart = {}
    for (network, draw), right in own.items():
        # Without draws of its own, one run stands beside all draws.
        match = there.get((partner[network], draw if other.settings.draws > 1 else 0))
        if match is not None:
            before = _right(match)
            shared = min(len(right), len(before))
            apart[network, draw] = right[:shared] - before[:shared]
    return apart


def _with_interval(name: str, values: Mapping[tuple[str, int], Tensor], ends: str) -> Row:
    """The mean of (images,) values over networks and draws, and its interval."""
    low_name, high_name = f"{ends}low", f"{ends}high"
    if not values:
        return {name: None, low_name: None, high_name: None}
    units = torch.stack([torch.stack(parts).mean() for parts in _by_unit(values).values()])
    mean = float(units.mean())
    if len(units) > 1:
        low, high = mean_interval(units)
    elif name == "accuracy":
        only = next(iter(values.values()))
        low, high = wilson_interval(int(only.sum()), len(only))
    else:
        low, high = bootstrap_mean(next(iter(values.values())))
    return {name: mean, low_name: low, high_name: high}


def _error(found: Mapping[tuple[str, int], Sequence[float | None]]) -> Row:
    """The mean of logit errors over networks and draws, and its interval; of one alone, its own over images."""
    known = {key: error for key, error in found.items() if None not in error}
    if len(known) == 1:
        return dict(zip(_ERROR, next(iter(known.values())), strict=True))
    mean = {key: torch.tensor([error[0]], dtype=torch.float64) for key, error in known.items()}
    return _with_interval(_ERROR[0], mean, f"{_ERROR[0]}_")


def _by_unit(values: Mapping[tuple[str, int], Tensor]) -> dict[Any, list[Tensor]]:
    """Means over images, by network where there are several, else by draw: draws of one network repeat no training."""
    place = 0 if _unit(values) == "networks" else 1
    out: dict[Any, list[Tensor]] = {}
    for key, value in values.items():
        out.setdefault(key[place], []).append(value.mean())
    return out


def _unit(values: Mapping[tuple[str, int], Tensor]) -> str:
    if len({network for network, _ in values}) > 1:
        return "networks"
    return "draws" if len(values) > 1 else "images"


def _right(found: Mapping[str, Any]) -> Tensor:
    """Which images are classified rightly (images,): 0 or 1, float64."""
    return torch.tensor([c == "1" for c in found["right"]], dtype=torch.float64)


def _share(right: Tensor) -> float:
    return int(right.sum()) / len(right)


def _reference(results: Results, key: str) -> float | None:
    found = results.found.get(key)
    return None if found is None else _share(_right(found))


def _reference_error(results: Results, key: str) -> float | None:
    found = results.found.get(key)
    return None if found is None else found["logit_error"][0]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
