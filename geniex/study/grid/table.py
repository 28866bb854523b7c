"""The tables of a study: a row for each run, and a summary over networks and draws with a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from geniex import __version__
from geniex.errors import InputError
from geniex.jobs import digest
from geniex.study.grid.comparisons import (
    Change,
    compare_pairs,
    keep_shared_images,
    make_difference_columns,
    make_recovered_columns,
    name_recovered_columns,
)
from geniex.study.grid.counts import CONVERTERS, COUNTS
from geniex.study.grid.layer_errors import compare_orders
from geniex.study.grid.means import Runs, average, estimate_mean, name_unit
from geniex.study.grid.plan import PlannedPoint, PlannedRun, StudyPlan
from geniex.study.statistics import difference_interval, mean_interval, wilson_interval

RECOVERED = {"recovered": "ideal", "float_recovered": "floating"}
"""Columns of recovered shares, with the reference at the top of the drop."""
DETAILS = ("differences", "layers", "places", "learning_rates")
"""Further tables of a study, which only some studies have."""
CHECKED = ("check_accuracy", "check_agreement")
"""Columns of the check by another emulator."""
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
    span); "seconds"; "error" (None, or the reason why the other columns are empty).

    A study that varies ``mitigation`` also has "recovered", the share of the accuracy lost from ideal tiles to the same
    crossbars without mitigation that a mitigation recovers, with "recovered_low"... (95 % bootstrap over the images).
    "float_recovered" is the same of the accuracy lost from floating point. A study with a check has "check_accuracy"
    and "check_agreement" (share of images on which both emulators predict the same class)."""
    summary: tuple[Row, ...]
    """Rows of the summary, one for each grid point, with means over its networks and draws. "low" and "high" are the
    ends of the 95 % interval of "accuracy"; so are "float_drop_low"..., "drop_low"..., "logit_error_low"..., and
    "difference_low"... for "difference" (accuracy above the baseline's on the same images, in pairs). "interval" names
    the samples of the intervals. For "networks" and "draws" it is Student's t: on the logit scale for accuracies, on a
    logarithmic scale for logit errors, and cut off at the possible range for differences. For "images", with a single
    run, it is Wilson's interval or a bootstrap. "recovered" is the share of what all runs lose together; beside its
    interval over networks or draws it has that over the images, "recovered_images_low"... ."""
    differences: tuple[Row, ...]
    """Differences in accuracy between points, one row for every two points of a part that differ on one of the axes in
    the study's ``differences``. Columns: the axes' values; "axis"; "above" (the other point's value on it);
    "images"; "difference" with "low" and "high" (95 % bootstrap over the images of all runs) and with "networks_low"
    and "networks_high" (95 % Student's t over networks or draws)."""
    layers: tuple[Row, ...]
    """Output errors of each layer where ``circuit_positions`` asks for them, by "emulator" and "circuit", plain and
    weighted by the loss gradient; see ``LayerError``. "order_agreement" is Kendall's tau of the weighted errors by
    emulator and by circuit, over all points that differ only in mitigation."""
    places: tuple[Row, ...]
    """Remapped layers: "layer", "moved" (outputs that are not in their natural place), "outputs", "undone" (the place
    where the order is undone), "consumers", "expected"; see ``RemappedLayer``."""
    learning_rates: tuple[Row, ...]
    """Runs of fine-tuning, one for each learning rate: "learning_rate", "training_loss", "left_out_loss",
    "left_out_accuracy", "seconds_per_step", "chosen"; see ``TriedRate``."""
    configuration: dict[str, Any] = field(repr=False)
    missing: tuple[str, ...] = ()
    """Outputs that could not be written because an optional package is missing, a line each."""

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows without a result."""
        return tuple(row for row in self.rows if row["error"] is not None)

    def point(self, **labels: Any) -> Row:
        """The summary row of the only grid point with these axis values; dots in names are written as "__"."""
        wanted = {name.replace("__", "."): value for name, value in labels.items()}
        alike = [row for row in self.summary if all(row.get(name) == value for name, value in wanted.items())]
        if len(alike) != 1:
            raise InputError(
                "labels",
                wanted,
                f"they must select one point, and select {len(alike)}: give more of the axes {', '.join(self.axes)}",
            )
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
            **{name: list(getattr(self, name)) for name in DETAILS},
            "configuration": self.configuration,
        }


def tabulate(plan: StudyPlan, results: Results, device: str) -> Study:
    """The tables of a plan after its jobs have run."""
    told = {
        "geniex_version": __version__,
        "torch_version": torch.__version__,
        "device": device,
        "asked": plan.spec.asked,
        "points": [
            {"part": point.part, "labels": point.labels, "settings": point.settings.to_dict()} for point in plan.points
        ],
    }
    return Study(
        plan.spec.title,
        plan.spec.about,
        plan.spec.axes,
        plan.spec.baseline,
        tuple(_row(plan, point, run, results) for point in plan.points for run in point.runs),
        tuple(_summary(plan, point, results) for point in plan.points),
        tuple(_differences(plan, results)),
        _layers(plan, results),
        tuple(row for _, _, row in _details(plan, results, "places")),
        tuple(row for _, _, row in _details(plan, results, "learning_rates")),
        told,
    )


def name_columns(rows: Sequence[Row]) -> list[str]:
    """The names of a table's columns."""
    return list(rows[0]) if rows else []


def _head(plan: StudyPlan, point: PlannedPoint) -> Row:
    part = {"part": point.part} if len(plan.spec.parts) > 1 else {}
    return part | {name: point.labels[name] for name in plan.spec.axes}


def _checked(plan: StudyPlan) -> tuple[str, ...]:
    """The columns of checks, if any point has one."""
    return CHECKED if any(point.settings.check is not None for point in plan.points) else ()


def _row(plan: StudyPlan, point: PlannedPoint, run: PlannedRun, results: Results) -> Row:
    row = _head(plan, point) | {"training": run.network, "draw": run.draw}
    own = ("images", "correct", "accuracy", "low", "high", "chance")
    references = ("float_accuracy", "ideal_accuracy", "float_drop", "drop")
    shares = [name for kind in RECOVERED for name in name_recovered_columns(kind)[:3]] if plan.varies_mitigation else []
    row |= dict.fromkeys((*own, *references, *_ERROR, "ideal_logit_error", *shares, *_checked(plan), *_FIGURES))
    row |= {"seconds": None, "error": None}
    found = results.found.get(run.job.key)
    if found is None:
        return row | {"error": results.errors.get(run.job.key, "its result is missing")}
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
    back = _recovered(plan, point, [run], results)
    row |= {name: back[name] for name in shares}
    return row | {name: found.get(name) for name in (*_checked(plan), *_FIGURES)}


def _summary(plan: StudyPlan, point: PlannedPoint, results: Results) -> Row:
    runs = [run for run in point.runs if run.job.key in results.found]
    row: Row = _head(plan, point) | {"trainings": len(point.settings.networks), "draws": point.settings.draws}
    row |= {"failed": len(point.runs) - len(runs), "images": None, "interval": None}
    own = {(run.network, run.draw): _right(results.found[run.job.key]) for run in runs}
    row |= {"images": len(next(iter(own.values()))), "interval": name_unit(own)} if own else {}
    accuracies = partial(mean_interval, low=0.0, high=1.0)
    row |= estimate_mean("accuracy", own, "", accuracies)
    row |= {"chance": _mean([_chance(results.found[run.job.key]) for run in runs])}
    for name, kind in (("float_accuracy", "floating"), ("ideal_accuracy", "ideal")):
        row |= estimate_mean(name, _references(runs, kind, results), f"{name}_", accuracies)
        row[name] = _mean([_reference(results, getattr(run, kind).key) for run in runs])
    for name, kind in (("float_drop", "floating"), ("drop", "ideal")):
        row |= _drop(name, own, _references(runs, kind, results))
    row |= _error({(run.network, run.draw): results.found[run.job.key]["logit_error"] for run in runs})
    row |= {"ideal_logit_error": _mean([_reference_error(results, run.ideal.key) for run in runs])}
    if plan.spec.baseline:
        other = plan.baseline(point)
        row |= make_difference_columns({} if other is None else _pairs(point, other, results))
    row |= _recovered(plan, point, runs, results)
    for name in (*_checked(plan), *_FIGURES, "seconds"):
        row[name] = _mean([results.found[run.job.key].get(name) for run in runs])
    return row


def _drop(name: str, own: Runs, reference: Runs) -> Row:
    """The mean distance of accuracies below a reference's on the same images, with its interval."""
    top = average(reference)
    # The reference's accuracy minus the drop is an accuracy, which bounds the drop.
    interval = partial(difference_interval, low=top - 1, high=top)
    return estimate_mean(name, {key: x - own[key] for key, x in reference.items()}, f"{name}_", interval)


def _recovered(plan: StudyPlan, point: PlannedPoint, runs: Sequence[PlannedRun], results: Results) -> Row:
    """The recovered shares of the drops from ideal tiles and from floating point, if the study varies mitigation."""
    row: Row = {}
    for name, kind in RECOVERED.items() if plan.varies_mitigation else ():
        changes: dict[tuple[str, int], Change] = {}
        for run in runs if point.settings.mitigation else ():
            before = plan.unmitigated(point, run)
            jobs = (run.job, None if before is None else before.job, getattr(run, kind))
            found = [results.found.get(job.key) for job in jobs if job is not None]
            known = [_right(one) for one in found if one is not None]
            if len(known) == len(jobs):
                changes[run.network, run.draw] = Change(*keep_shared_images(*known))
        row |= make_recovered_columns(name, changes)
    return row


def _differences(plan: StudyPlan, results: Results) -> Iterator[Row]:
    """A row for every two points of a part that differ on one of the axes that the study compares."""
    for axis in plan.spec.differences:
        for point, other in plan.pairs(axis):
            head = _head(plan, point) | {"axis": axis, "above": other.labels[axis]}
            yield head | compare_pairs(_pairs(point, other, results))


def _details(plan: StudyPlan, results: Results, name: str) -> Iterator[tuple[PlannedPoint, PlannedRun, Row]]:
    """The rows of one kind of a run's details, such as its layers, with the run."""
    for point in plan.points:
        for run in point.runs:
            for told in results.found.get(run.job.key, {}).get(name, ()):
                yield point, run, _head(plan, point) | {"training": run.network, "draw": run.draw} | told


def _layers(plan: StudyPlan, results: Results) -> tuple[Row, ...]:
    """The layers' errors, with the agreement of emulator and circuit on the order of the mitigations in each layer."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    rows = []
    for point, run, row in _details(plan, results, "layers"):
        alike = digest(point.settings.unmitigated.to_dict())
        groups.setdefault((alike, run.network, row["layer"]), []).append(row)
        rows.append(row)
    for group in groups.values():
        agreement = compare_orders([(row["emulator_weighted"], row["circuit_weighted"]) for row in group])
        for row in group:
            row["order_agreement"] = agreement
    return tuple(rows)


def _pairs(point: PlannedPoint, other: PlannedPoint, results: Results) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
    """Correctness (images,) at two points, paired by training and draw, on the images that both have."""
    partner = dict(zip(point.settings.networks, other.settings.networks, strict=True))
    there = {(run.network, run.draw): results.found.get(run.job.key) for run in other.runs}
    pairs = {}
    for run in point.runs:
        # A point with a single draw is paired with every draw.
        match = there.get((partner[run.network], run.draw if other.settings.draws > 1 else 0))
        found = results.found.get(run.job.key)
        if found is not None and match is not None:
            own, before = keep_shared_images(_right(found), _right(match))
            pairs[run.network, run.draw] = own, before
    return pairs


def _references(runs: Sequence[PlannedRun], kind: str, results: Results) -> dict[tuple[str, int], Tensor]:
    """Correctness (images,) of the runs' references that have a result."""
    found = {(run.network, run.draw): results.found.get(getattr(run, kind).key) for run in runs}
    return {key: _right(one) for key, one in found.items() if one is not None}


def _error(found: Mapping[tuple[str, int], Sequence[float | None]]) -> Row:
    """The mean of logit errors over networks and draws, with its interval; a single run has its own over images."""
    known = {key: error for key, error in found.items() if None not in error}
    if len(known) == 1:
        return dict(zip(_ERROR, next(iter(known.values())), strict=True))
    mean = {key: torch.tensor([error[0]], dtype=torch.float64) for key, error in known.items()}
    return estimate_mean(_ERROR[0], mean, f"{_ERROR[0]}_", partial(mean_interval, low=0.0))


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
