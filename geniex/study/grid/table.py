"""The tables of a study: a row for each run, and a summary over networks and draws with a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from geniex import __version__
from geniex.errors import InputError
from geniex.study.grid.counts import CONVERTERS, COUNTS
from geniex.study.grid.plan import Cell, PlannedRun, StudyPlan
from geniex.study.statistics import bootstrap_mean, difference_interval, mean_interval, wilson_interval

_FIGURES = (*COUNTS, *CONVERTERS)
_ERROR = ("logit_error", "logit_error_low", "logit_error_high")
Row = dict[str, Any]
"""Values by column name: numbers and words, None for a missing value."""


@dataclass(frozen=True)
class Results:
    """The results and errors of jobs, by key."""

    found: Mapping[str, Mapping[str, Any]]
    errors: Mapping[str, str]


@dataclass(frozen=True)
class Study:
    """The result of ``run_study``."""

    title: str
    about: str
    axes: tuple[str, ...]
    """Dotted names of the varied settings; they are columns of both tables."""
    baseline: dict[str, Any]
    rows: tuple[Row, ...]
    """Rows of the table of runs, one for each grid point, network and draw of devices. Columns: the axes' values;
    "training" (the network), "draw", "images", "correct"; "accuracy" with "low" and "high" (95 % Wilson interval over
    the images); "chance" (accuracy of guessing); "float_accuracy" and "ideal_accuracy" (ideal tiles, same
    architecture); "float_drop" and "drop" (distances of the accuracy below these two); "logit_error" (RMS distance of
    the logits from the floating-point ones over the RMS of the latter) with "logit_error_low"... (95 % bootstrap over
    the images); "ideal_logit_error"; "arrays"; per image "reads", "adc_conversions" and "static_energy" [J]; on
    calibration inputs "adc_clipped" (share of conversions) and "overflowed" (share of accumulated sums), both in the
    worst layer, and "adc_codes_used" (span of the ADC codes as a share of all codes, in the layer with the smallest
    span); "seconds"; "error" (None, or the reason why the other columns are empty)."""
    summary: tuple[Row, ...]
    """Rows of the summary, one for each grid point, with means over its networks and draws. "low" and "high" are the
    ends of the 95 % interval of "accuracy"; so are "float_drop_low"..., "drop_low"..., "logit_error_low"..., and
    "difference_low"... for "difference" (accuracy above the baseline's on the same images, in pairs). "interval" names
    the samples of the intervals. For "networks" and "draws" it is Student's t: on the logit scale for accuracies, on a
    logarithmic scale for logit errors, and cut off at the possible range for differences. For "images", with a single
    run, it is Wilson's interval or a bootstrap."""
    configuration: dict[str, Any] = field(repr=False)
    missing: tuple[str, ...] = ()
    """Outputs that could not be written because an optional package is missing, a line each."""

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows without a result."""
        return tuple(row for row in self.rows if row["error"] is not None)

    def cell(self, **labels: Any) -> Row:
        """The summary row of the only grid point with these axis values; dots in names are written as "__"."""
        wanted = {name.replace("__", "."): value for name, value in labels.items()}
        alike = [row for row in self.summary if all(row.get(name) == value for name, value in wanted.items())]
        if len(alike) != 1:
            raise InputError("labels", wanted, f"{len(alike)} cells have them; axes are {', '.join(self.axes)}")
        return alike[0]

    def to_dict(self) -> dict[str, Any]:
        """The study as JSON-ready plain values, without ``missing``."""
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
    """The tables of a plan after its jobs have run."""
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
    own = ("images", "correct", "accuracy", "low", "high", "chance")
    references = ("float_accuracy", "ideal_accuracy", "float_drop", "drop")
    row |= dict.fromkeys((*own, *references, *_ERROR, "ideal_logit_error", *_FIGURES, "seconds", "error"))
    found = results.found.get(run.job.key)
    if found is None:
        return row | {"error": results.errors.get(run.job.key, "its result was lost")}
    right = _right(found)
    low, high = wilson_interval(int(right.sum()), len(right))
    accuracy, chance = _share(right), _chance(found)
    floating, ideal = (_reference(results, job.key) for job in (run.floating, run.ideal))
    row |= {"images": len(right), "correct": int(right.sum()), "accuracy": accuracy, "low": low, "high": high}
    row |= {"chance": chance, "float_accuracy": floating, "ideal_accuracy": ideal, "seconds": found["seconds"]}
    for name, reference in (("float_drop", floating), ("drop", ideal)):
        row[name] = None if reference is None else reference - accuracy
    row |= dict(zip(_ERROR, found["logit_error"], strict=True))
    row |= {"ideal_logit_error": _reference_error(results, run.ideal.key)}
    return row | {name: found.get(name) for name in _FIGURES}


def _summary(plan: StudyPlan, cell: Cell, results: Results) -> Row:
    runs = [run for run in cell.runs if run.job.key in results.found]
    row: Row = _head(plan, cell) | {"trainings": len(cell.settings.networks), "draws": cell.settings.draws}
    row |= {"failed": len(cell.runs) - len(runs), "images": None, "interval": None}
    own = {(run.network, run.draw): _right(results.found[run.job.key]) for run in runs}
    row |= {"images": len(next(iter(own.values()))), "interval": _unit(own)} if own else {}
    row |= _with_interval("accuracy", own, "", partial(mean_interval, low=0.0, high=1.0))
    row |= {"chance": _mean([_chance(results.found[run.job.key]) for run in runs])}
    row |= {
        name: _mean([_reference(results, getattr(run, kind).key) for run in runs])
        for name, kind in (("float_accuracy", "floating"), ("ideal_accuracy", "ideal"))
    }
    for name, kind in (("float_drop", "floating"), ("drop", "ideal")):
        row |= _drop(name, own, {(r.network, r.draw): results.found.get(getattr(r, kind).key) for r in runs})
    row |= _error({(run.network, run.draw): results.found[run.job.key]["logit_error"] for run in runs})
    row |= {"ideal_logit_error": _mean([_reference_error(results, run.ideal.key) for run in runs])}
    if plan.spec.baseline:
        row |= _difference(_pairs(plan, cell, own, results))
    for name in (*_FIGURES, "seconds"):
        row[name] = _mean([results.found[run.job.key].get(name) for run in runs])
    return row


def _drop(
    name: str, own: Mapping[tuple[str, int], Tensor], there: Mapping[tuple[str, int], Mapping[str, Any] | None]
) -> Row:
    """The mean distance of accuracies below a reference's on the same images, with its interval."""
    reference = {key: _right(found) for key, found in there.items() if found is not None}
    top = _mean_of(reference)
    # The reference's accuracy minus the drop is an accuracy, which bounds the drop.
    interval = partial(difference_interval, low=top - 1, high=top)
    return _with_interval(name, {key: x - own[key] for key, x in reference.items()}, f"{name}_", interval)


def _difference(pairs: Mapping[tuple[str, int], tuple[Tensor, Tensor]]) -> Row:
    """The mean distance of accuracies above the baseline's, from (own, baseline) pairs, with its interval."""
    apart = {key: own - before for key, (own, before) in pairs.items()}
    base = _mean_of({key: before for key, (_, before) in pairs.items()})
    interval = partial(difference_interval, low=-base, high=1 - base)
    return _with_interval("difference", apart, "difference_", interval)


def _pairs(
    plan: StudyPlan, cell: Cell, own: Mapping[tuple[str, int], Tensor], results: Results
) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
    """Correctness (images,) here and in the baseline, paired by training and draw, on the images that both have."""
    other = plan.baseline(cell)
    if other is None:
        return {}
    partner = dict(zip(cell.settings.networks, other.settings.networks, strict=True))
    there = {(run.network, run.draw): results.found.get(run.job.key) for run in other.runs}
    pairs = {}
    for (network, draw), right in own.items():
        # A baseline with a single draw is paired with every draw.
        match = there.get((partner[network], draw if other.settings.draws > 1 else 0))
        if match is not None:
            before = _right(match)
            shared = min(len(right), len(before))
            pairs[network, draw] = right[:shared], before[:shared]
    return pairs


def _with_interval(
    name: str, values: Mapping[tuple[str, int], Tensor], ends: str, interval: Callable[[Tensor], tuple[float, float]]
) -> Row:
    """The mean of (images,) values over networks and draws, with its interval.

    ``interval`` gives it over several networks or draws; for a single run it is taken over the images.
    """
    low_name, high_name = f"{ends}low", f"{ends}high"
    if not values:
        return {name: None, low_name: None, high_name: None}
    units = _by_unit(values)
    mean = float(units.mean())
    if len(units) > 1:
        low, high = interval(units)
    elif name == "accuracy":
        only = next(iter(values.values()))
        low, high = wilson_interval(int(only.sum()), len(only))
    else:
        low, high = bootstrap_mean(next(iter(values.values())))
    return {name: mean, low_name: low, high_name: high}


def _error(found: Mapping[tuple[str, int], Sequence[float | None]]) -> Row:
    """The mean of logit errors over networks and draws, with its interval; a single run has its own over images."""
    known = {key: error for key, error in found.items() if None not in error}
    if len(known) == 1:
        return dict(zip(_ERROR, next(iter(known.values())), strict=True))
    mean = {key: torch.tensor([error[0]], dtype=torch.float64) for key, error in known.items()}
    return _with_interval(_ERROR[0], mean, f"{_ERROR[0]}_", partial(mean_interval, low=0.0))


def _by_unit(values: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """Means over images (units,): one for each network if there are several, else one for each draw.

    Draws of one network are not independent samples of its training, so they are averaged within the network.
    """
    place = 0 if _unit(values) == "networks" else 1
    out: dict[Any, list[Tensor]] = {}
    for key, value in values.items():
        out.setdefault(key[place], []).append(value.mean())
    return torch.stack([torch.stack(parts).mean() for parts in out.values()])


def _mean_of(values: Mapping[tuple[str, int], Tensor]) -> float:
    """The mean over units; 0 if there are none."""
    return float(_by_unit(values).mean()) if values else 0.0


def _unit(values: Mapping[tuple[str, int], Tensor]) -> str:
    if len({network for network, _ in values}) > 1:
        return "networks"
    return "draws" if len(values) > 1 else "images"


def _right(found: Mapping[str, Any]) -> Tensor:
    """Whether each image is classified correctly (images,): 0 or 1, float64."""
    return torch.tensor([c == "1" for c in found["right"]], dtype=torch.float64)


def _chance(found: Mapping[str, Any]) -> float:
    """The accuracy of guessing."""
    return 1 / found["classes"]


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
