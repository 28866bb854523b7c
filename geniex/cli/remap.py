"""``geniex remap``: how much of the accuracy lost to wires remapping recovers, compared with controls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from torch import nn

from geniex.cli._console import report_console
from geniex.cli._device import check_device
from geniex.cli._files import check_file, check_folder, write_json
from geniex.cli._remap_report import checked_rows, difference_rows, layer_header, notes, row_cells, row_header
from geniex.cli._tables import plain_table
from geniex.cli.predict import Bars
from geniex.config import check_seed
from geniex.errors import InputError, MissingDependencyError
from geniex.mapping import AdcRange, Offset
from geniex.mitigation import REMAPPINGS
from geniex.mitigation.batch_norm import has_batch_norms
from geniex.networks import load_images, load_network
from geniex.preset import presets
from geniex.study.html import html_table, markdown_page, write_page
from geniex.study.remapping import RemapSetting, RemapStudy, study_remapping

_METHODS = ["none", "random", "l1", "srs", "drs", "assignment"]


def remap(
    network: list[str] | None = None,
    data: str = "fashion-mnist",
    preset: str = "wire-128-harsh",
    surrogate: str = "physics-fast",
    method: list[str] | None = None,
    control: list[str] | None = None,
    combined: list[str] | None = None,
    fine_tuned: list[str] | None = None,
    images: int | None = 1000,
    combined_images: int | None = None,
    calibration_images: int = 256,
    steps: int = 20,
    circuit_positions: int = 0,
    weight_bits: int = 8,
    input_bits: int = 6,
    slice_bits: int = 4,
    stream_bits: int = 5,
    adc_bits: int | None = 14,
    adc_range: AdcRange = "full_scale",
    accumulator_bits: int | None = None,
    accumulator_frac_bits: int | None = None,
    offset: Offset = "analog_difference",
    seed: int = 0,
    device: str = "cpu",
    data_root: Path | None = None,
    out: Path | None = None,
    json: Path | None = None,
) -> None:
    """Move kernels to where wires hurt least and report the recovered accuracy, compared with controls.

    Args:
        network: name of a shipped network, or path of a checkpoint; repeat the option for several trainings of one
            architecture; fashion-vgg-0 if not given.
        data: data set whose test images are classified and whose training images the mappings are chosen on.
        preset: shipped setting of the crossbar, its conductance window and its read voltage.
        surrogate: surrogate that emulates this crossbar: a shipped name or a checkpoint's path.
        method: mapping to compare: none, random, l1, srs (static remapping by sensitivity), drs (dynamic remapping),
            srs_taylor, drs_taylor, assignment, assignment_mdm, mdm, wagonn, or rearrange (_ascending, _row_tile,
            _row_tile_ascending); repeat the option for several; if not given: none, random, l1, srs, drs and
            assignment; none is always included.
        control: control to compare with: gain (gain and offset of each output), batch_norm (refitted batch norms) or
            fine_tuning; if not given: gain, and batch_norm if all networks have batch norms.
        combined: method that is also combined with the controls; all compared methods if not given.
        fine_tuned: method that is also combined with fine-tuning, the slowest control; none if not given.
        images: number of test images, drawn at random with the seed; null is all.
        combined_images: rows with a control use only this many of the test images, the first ones; null is all.
        calibration_images: number of training images that the mappings are chosen on, at most 256.
        steps: number of fine-tuning steps.
        circuit_positions: number of inputs per layer of the first network on which the exact circuit checks the order
            of the methods; 0 skips this check.
        weight_bits: bits of a weight, sign included.
        input_bits: bits of an input, sign included.
        slice_bits: bits of a weight that one cell holds.
        stream_bits: bits of an input that one read applies.
        adc_bits: bits of the ADC; null is an ADC that never clips.
        adc_range: range of the ADC codes: the largest count of an ideal tile (full_scale), the counts that occur on
            training images (auto, calibrated), or one count per code (unit).
        accumulator_bits: width of a tile's shifted and added sum, sign included; null never overflows.
        accumulator_frac_bits: fraction bits within this width; null places the binary point matrix by matrix, by the
            weights.
        offset: how the current of level 0 (G_off) is removed.
        seed: seed for the choice of images and for random orders.
        device: device to compute on, such as cpu or cuda.
        data_root: folder of the data set, if it is not in the default place.
        out: folder for report.html, report.md, report.json and figures; results are stored there as they finish, so
            that the same command resumes after an interruption, and commands for one network each can share it.
        json: file for the machine-readable report alone.
    """
    if preset not in presets:
        raise InputError("preset", repr(preset), f"presets are {', '.join(presets)}")
    check_seed(seed)
    where, methods = check_device(device), _methods(method)
    architecture = presets[preset].architecture(
        weight_bits=weight_bits,
        input_bits=input_bits,
        slice_bits=slice_bits,
        stream_bits=stream_bits,
        adc_bits=adc_bits,
        adc_range=adc_range,
        offset=offset,
        **_accumulator(accumulator_bits, accumulator_frac_bits),
    )
    names = network or ["fashion-vgg-0"]
    models: dict[str, Any] = {Path(name).name: load_network(name) for name in names}
    if len(models) < len(names):
        raise InputError("network", names, "each needs a name of its own")
    setting = RemapSetting(
        preset=presets[preset],
        architecture=architecture,
        surrogate=surrogate,
        methods={name: REMAPPINGS[name] for name in methods},
        controls=_controls(models) if control is None else control,
        combined=methods if combined is None else combined,
        fine_tuned=fine_tuned or [],
        images=images,
        combined_images=combined_images,
        calibration_images=calibration_images,
        steps=steps,
        circuit_positions=circuit_positions,
        seed=seed,
    )
    training, tests = (load_images(data, train=train, root=data_root) for train in (True, False))
    for name, model in models.items():
        if tests.shape != model.input_shape:
            raise InputError("data", f"{data!r} of shape {tests.shape}", f"{name} takes images of {model.input_shape}")
    if images is not None and images > len(tests):
        raise InputError("images", images, f"give 1 to {len(tests)}, the test images that there are, or null for all")
    check_file("json", json)
    check_folder("out", out)
    kept = None if out is None else out / "kept"
    with Bars() as bars:
        study = study_remapping(models, training, tests, setting, device=where, work=kept, progress=bars.update)
    title = f"Remapping: {', '.join(models)} on {data}, {preset}"
    _print(study, title)
    details = {"asked": {"network": names, "data": data, "preset": preset, "device": device}} | study.to_dict()
    write_json(json, details)
    if out is not None:
        _write(study, title, details, out)
        print(f"report: {out / 'report.html'}")


def _accumulator(bits: int | None, frac_bits: int | None) -> dict[str, Any]:
    """The architecture's fields for an accumulator of finite width; empty if no width is given."""
    if bits is None:
        if frac_bits is not None:
            raise InputError("accumulator_frac_bits", frac_bits, "give accumulator_bits, too")
        return {}
    return {"accumulator_bits": bits} | ({} if frac_bits is None else {"accumulator_frac_bits": frac_bits})


def _controls(models: Mapping[str, nn.Module]) -> list[str]:
    return ["gain", "batch_norm"] if all(has_batch_norms(model) for model in models.values()) else ["gain"]


def _methods(given: list[str] | None) -> list[str]:
    names = _METHODS if given is None else given
    for name in names:
        if name not in REMAPPINGS:
            raise InputError("method", repr(name), f"methods are {', '.join(REMAPPINGS)}")
    return list(dict.fromkeys(["none", *names]))


def _tables(study: RemapStudy) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """The title, header and rows of each table."""
    tables = [("over all networks", row_header(), [row_cells(row) for row in study.rows])]
    tables.append(("differences in accuracy, points", ("mapping", "above", "points"), difference_rows(study)))
    if len(study.by_network) > 1:
        for name, rows in study.by_network.items():
            tables.append((name, row_header(), [row_cells(row) for row in rows]))
    if study.circuit:
        tables.append(("output errors, layer by layer", layer_header(), checked_rows(study)))
    return tables


def _print(study: RemapStudy, title: str) -> None:
    console = report_console()
    console.print(title, highlight=False, markup=False)
    for name, header, rows in _tables(study):
        table = plain_table(escape(name), header[:1], header[1:])
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in notes(study):
        console.print(note, highlight=False, markup=False)


def _write(study: RemapStudy, title: str, details: dict[str, Any], out: Path) -> None:
    write_json(out / "report.json", details)
    tables = _tables(study)
    text = markdown_page(title, notes(study), [(header, rows) for _, header, rows in tables])
    (out / "report.md").write_text(text, encoding="utf-8")
    told, figures = notes(study), []
    try:
        figures = _figures(details, out)
    except MissingDependencyError as error:
        told.append(f"No figures: {error}")
    write_page(
        out / "report.html", title, told, [html_table(header, rows) for _, header, rows in tables], figures, details
    )


def _figures(details: dict[str, Any], out: Path) -> list[Path]:
    from geniex.plotting import plot_layer_checks, plot_recovered, save_plot

    made = []
    if any(row["recovered"] is not None for row in details["rows"]):
        made.append(save_plot(plot_recovered(details["rows"]), out / "recovered.png"))
    if details["circuit"]:
        made.append(save_plot(plot_layer_checks(details["circuit"]), out / "layers.png"))
    return made
