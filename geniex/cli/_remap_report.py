"""The tables and notes of ``geniex remap``."""

from __future__ import annotations

from geniex.study.remap_circuit import same_order
from geniex.study.remap_table import RemapRow
from geniex.study.remapping import RemapStudy

_CONTROLS = {"gain": "gains and offsets", "batch_norm": "batch norms refitted", "fine_tuning": "fine-tuned"}
_PUBLISHED = {"srs": (5.6 - 2.9) / 5.6, "drs": (5.6 - 2.1) / 5.6}
"""Shares of the accuracy drop that X-CHANGR reports as recovered for VGG16 on CIFAR-10, by its static (SRS) and
dynamic (DRS) remapping."""


def row_header() -> tuple[str, ...]:
    """The header of the accuracy tables."""
    return ("mapping", "control", "images", "accuracy, %", "drop, points", "recovered, %", "over images, %")


def row_cells(row: RemapRow) -> tuple[str, ...]:
    """One row of an accuracy table as text."""
    return (
        row.method,
        _CONTROLS.get(row.control or "", "-"),
        f"{row.networks} x {row.images}" if row.networks > 1 else str(row.images),
        _interval(row.accuracy, row.accuracy_low, row.accuracy_high, ".2f"),
        "-" if row.drop is None else f"{100 * row.drop:.2f}",
        "-" if row.recovered is None else _interval(row.recovered, row.recovered_low, row.recovered_high, ".0f"),
        "-" if row.images_low is None or row.images_high is None else _ends(row.images_low, row.images_high, ".0f"),
    )


def difference_rows(study: RemapStudy) -> list[tuple[str, ...]]:
    """The difference in accuracy between each mapping and the others, with its interval, as text."""
    return [
        (d.method, d.other, f"{100 * d.mean:+.2f} ({_ends(d.low, d.high, '+.2f')})")
        for d in study.differences
        if d.other in ("none", "srs", "drs") or d.method == "assignment"
    ]


def layer_header() -> tuple[str, ...]:
    """The header of the layer table."""
    names = ("surrogate, %", "circuit, %", "surrogate, weighted, %", "circuit, weighted, %", "one order, tau")
    return ("layer", "mapping", *names)


def checked_rows(study: RemapStudy) -> list[tuple[str, ...]]:
    """The layer table as text, one row per layer and mapping."""
    tau, last = same_order(study.circuit), ""
    rows = []
    for check in study.circuit:
        figures = (check.surrogate, check.circuit, check.surrogate_weighted, check.circuit_weighted)
        first = check.layer != last
        told = f"{tau[check.layer]:.2f}" if first else ""
        rows.append((check.layer, check.method, *(f"{100 * x:.2f}" for x in figures), told))
        last = check.layer
    return rows


def notes(study: RemapStudy) -> list[str]:
    """Notes that explain the compared quantities, mappings and controls."""
    told = study.configuration
    arch, window = told["architecture"], told["preset"]["window"]
    out = [
        f"Drop: accuracy on ideal tiles less that on tiles with wires, as {told['surrogate']} has them, on the same"
        " images. Recovered: the share of it that is back, of what all networks lose together; in parentheses 95 %"
        " intervals over the networks (Student's t, that of accuracies on the logit scale), beside them those over"
        " images (bootstrap), which hold for these networks alone.",
        "Mappings: none, as outputs come; random and l1, controls; srs, one ranking of all layers by how much the loss"
        " rises with an output's distance from the drivers, judged on the crossbars before anything is moved; drs, the"
        " same layer by layer, with the layers before mapped; *_taylor, ranked by |w dL/dw| instead (srs_taylor: on the"
        " clean network); assignment, layer by layer by the loss expected of every output at every place; mdm and"
        " wagonn, word lines and bit lines by conductance; assignment_mdm, both. Nothing is retrained.",
        "Controls, each alone (mapping none) and with mappings: gains and offsets of each output fitted to ideal tiles;"
        f" batch norms refitted on the crossbars; {told['steps']} steps of fine-tuning on the crossbars. The first two"
        f" see 256 training images, mappings {told['calibration_images']}.",
        f"{arch['weight_bits']}-bit weights in slices of {arch['slice_bits']}, {arch['input_bits']}-bit inputs in"
        f" streams of {arch['stream_bits']}, ADC {arch['adc_bits']} bits ({arch['adc_range']}), offset by"
        f" {arch['offset']}, R_on {window['r_on']:g} Ohm, on/off {float(window['on_off']):g}.",
    ]
    out += [_against_published(study, name, share) for name, share in _PUBLISHED.items() if name in told["methods"]]
    if study.circuit:
        taus = same_order(study.circuit).values()
        out.append(
            f"Layers: output error against ideal tiles on {study.circuit[0].positions} sampled inputs of each layer of"
            f" {told['networks'][0]}; weighted by the clean network's squared loss gradient. The order of the methods"
            f" by weighted error is that of the exact circuit up to a Kendall tau of {min(taus):.2f} at worst."
        )
    return out


def _against_published(study: RemapStudy, name: str, published: float) -> str:
    row = study.row(name)
    if row.recovered is None:
        return f"{name}: nothing was lost, so nothing can be recovered."
    kept = "at least" if row.recovered >= published else "less than"
    best = max((r for r in study.rows if r.control is None and r.recovered is not None), key=lambda r: r.recovered or 0)
    reach = "" if row.recovered >= published else f"; the most that a mapping alone reaches here is {_share(best)}"
    return (
        f"{name} recovers {100 * row.recovered:.0f} %, {kept} the {100 * published:.0f} % that X-CHANGR reports for"
        f" VGG16 on CIFAR-10{reach}."
    )


def _share(row: RemapRow) -> str:
    return f"{100 * (row.recovered or 0):.0f} % ({row.method})"


def _interval(value: float, low: float | None, high: float | None, form: str) -> str:
    ends = "" if low is None or high is None else f" ({_ends(low, high, form)})"
    return f"{100 * value:{form}}{ends}"


def _ends(low: float, high: float, form: str) -> str:
    return f"{100 * low:{form}} to {100 * high:{form}}"
