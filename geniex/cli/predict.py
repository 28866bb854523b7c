"""``geniex predict``: the accuracy that a network will have on crossbars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch.utils.data import DataLoader

from geniex.cli._device import check_device
from geniex.cli._files import check_file, check_folder, write_json
from geniex.cli._progress import Bars
from geniex.cli._tables import make_report_console
from geniex.config import check_seed
from geniex.errors import InputError, MissingDependencyError
from geniex.jobs import Executor, check_workers
from geniex.mapping import AdcRange, Offset
from geniex.networks import ImageSet, load_images, load_network
from geniex.networks.images import MovedBatches
from geniex.preset import presets
from geniex.study.accuracy import Prediction, predict_accuracy
from geniex.study.html import make_html_table, make_markdown_page, write_page

_STAGES = ("stage", "images", "accuracy, %", "agreement, %", "logit error", "images/s")
_NF = ("layer", "NF mean", "NF std", "5 %", "95 %", "currents")
_CONVERTERS = {"ADC clips": "adc_clipped", "ADC codes used": "adc_codes_used", "overflows": "overflowed"}
"""Optional columns of the layer table; each is shown if any layer has a value for it."""
_CLIPPED = 1e-3
"""Share of clipped ADC conversions above which a layer is named in a warning."""


def predict(
    network: str = "fashion-cnn",
    data: str = "fashion-mnist",
    preset: str = "geniex-16",
    surrogate: list[str] | None = None,
    images: int = 1000,
    circuit_images: int | None = None,
    weight_bits: int = 8,
    input_bits: int = 8,
    slice_bits: int = 4,
    stream_bits: int = 4,
    adc_bits: int | None = 14,
    adc_range: AdcRange = "auto",
    offset: Offset = "analog_difference",
    seed: int = 0,
    data_root: Path | None = None,
    device: str = "cpu",
    workers: int | None = None,
    executor: Executor = "local",
    out: Path | None = None,
    json: Path | None = None,
) -> None:
    """Predict a network's accuracy on crossbars: float, fixed point, ideal, linear, surrogate, exact circuit.

    Args:
        network: name of a shipped network, or path of a network's checkpoint.
        data: data set whose test images are classified.
        preset: shipped setting of the crossbar, its conductance window and its read voltage.
        surrogate: surrogate that emulates this crossbar: a shipped name or a checkpoint's path; repeat the option
            for several surrogates.
        images: number of test images, drawn at random with the seed.
        circuit_images: number of the images that the exact circuit sees, too; null is 64, or all where there are fewer.
        weight_bits: bits of a weight, sign included; its fraction bits are chosen layer by layer.
        input_bits: bits of an input, sign included; its fraction bits are chosen on 128 training images.
        slice_bits: bits of a weight that one cell holds.
        stream_bits: bits of an input that one read applies.
        adc_bits: bits of the ADC; null is an ADC that never clips.
        adc_range: range of the ADC codes: the counts that occur on 128 training images (auto, calibrated), the largest
            count of an ideal tile (full_scale), or one count per code (unit).
        offset: how the current of level 0 (G_off) is removed.
        seed: seed for the choice of images.
        data_root: folder of the data set, if it is not in the default place.
        device: device to compute on, such as cpu or cuda.
        workers: number of processes with one thread each that share the images; one process with all threads if not
            given; on a Ray cluster the number of concurrent batches, two per processor if not given.
        executor: run in local processes, or on a Ray cluster: the one at RAY_ADDRESS, otherwise one on this machine.
        out: folder for report.html, report.md, report.json and the figures; it also keeps the logits, so that the same
            command resumes after an interruption.
        json: file for the machine-readable report alone.
    """
    if preset not in presets:
        raise InputError("preset", repr(preset), f"the presets are {', '.join(presets)}")
    bench = presets[preset]
    architecture = bench.architecture(
        weight_bits=weight_bits,
        input_bits=input_bits,
        slice_bits=slice_bits,
        stream_bits=stream_bits,
        adc_bits=adc_bits,
        adc_range=adc_range,
        offset=offset,
    )
    check_seed(seed)
    check_workers(workers, executor)
    check_file("json", json)
    check_folder("out", out)
    where = check_device(device)
    model = load_network(network).to(where)
    tests, training = (load_images(data, train=train, root=data_root) for train in (False, True))
    if tests.shape != model.input_shape:
        raise InputError("data", f"{data!r} of shape {tests.shape}", f"{network} takes images of {model.input_shape}")
    loader = MovedBatches(_chosen(tests, images, seed), where)
    calibration = next(iter(_chosen(training, 128, seed)))[0].to(where)
    with Bars() as bars:
        report = predict_accuracy(
            model,
            loader,
            crossbar=bench.crossbar,
            architecture=architecture,
            surrogates=surrogate or (),
            circuit_images=min(64, images) if circuit_images is None else circuit_images,
            calibration=calibration,
            progress=bars.update,
            work=None if out is None else out / "logits",
            workers=workers,
            executor=executor,
        )
    asked = {"network": network, "data": data, "preset": preset, "seed": seed, "device": device}
    title = f"{network} on {data}, {preset}"
    _print(report, title)
    details = {"asked": asked} | report.to_dict()
    write_json(json, details)
    if out is not None:
        _write(report, title, details, out)
        print(f"report: {out / 'report.html'}")


def _chosen(images: ImageSet, count: int, seed: int) -> DataLoader[Any]:
    if not 1 <= count <= len(images):
        raise InputError("images", count, f"it must be 1 to {len(images)}, the number of images in the set")
    return DataLoader(images.subset(count, seed), batch_size=256)


def stage_rows(report: Prediction) -> list[tuple[str, ...]]:
    """The table of stages as text, one row per stage."""
    rows: list[tuple[str, ...]] = []
    for s in report.stages:
        accuracy, agreement, error = share(s.accuracy, s.low, s.high), "-", "-"
        if s.agreement is not None and s.agreement_low is not None and s.agreement_high is not None:
            agreement = share(s.agreement, s.agreement_low, s.agreement_high)
            error = f"{s.logit_error:.3%} ({s.logit_error_low:.2%}-{s.logit_error_high:.2%})"
        rows.append((s.name, str(s.images), accuracy, agreement, error, _rate(s.images_per_second)))
    return rows


def share(value: float, low: float, high: float) -> str:
    """A share and its interval, in percent."""
    return f"{100 * value:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def layer_header(report: Prediction) -> tuple[str, ...]:
    """The columns of ``layer_rows``."""
    return (*_NF, *_converters(report))


def layer_rows(report: Prediction) -> list[tuple[str, ...]]:
    """The table of layers as text: the NF and the use of the converters, one row per layer."""
    rows: list[tuple[str, ...]] = []
    for x in report.layers:
        figures = [getattr(x, name) for name in _converters(report).values()]
        nf = (x.name, f"{x.mean:.2%}", f"{x.std:.2%}", f"{x.p05:.2%}", f"{x.p95:.2%}", str(x.currents))
        rows.append((*nf, *("-" if figure is None else f"{figure:.2%}" for figure in figures)))
    return rows


def _converters(report: Prediction) -> dict[str, str]:
    known = {name for name in _CONVERTERS.values() if any(getattr(x, name) is not None for x in report.layers)}
    return {title: name for title, name in _CONVERTERS.items() if name in known}


def _converter_notes(report: Prediction) -> list[str]:
    """Notes that explain the converters' columns and name the layers whose ADC clips or whose sums overflow."""
    if not _converters(report):
        return []
    out = [
        "The converters' columns hold figures of the exact circuit on calibration inputs: the share of ADC conversions"
        " that clip, the share of the ADC's codes that occur, and the share of accumulated sums that overflow."
    ]
    clipped = [f"{x.name} ({x.adc_clipped:.2%})" for x in report.layers if (x.adc_clipped or 0) > _CLIPPED]
    overflowed = [f"{x.name} ({x.overflowed:.2%})" for x in report.layers if x.overflowed]
    if clipped:
        out.append(
            f"Warning: the ADC clips more than {_CLIPPED:.1%} of the conversions of {', '.join(clipped)}: give it more"
            " bits or a wider range (adc_range calibrated)."
        )
    if overflowed:
        out.append(
            f"Warning: accumulated sums overflow in {', '.join(overflowed)}: give the accumulator more bits, or fewer"
            " fraction bits."
        )
    return out


def _notes(report: Prediction) -> list[str]:
    compared = (
        f"Agreement and logit error compare each stage with the exact circuit on the first {report.circuit_images}"
        " images; the logit error is the RMS difference of the logits over the RMS logit."
    )
    return [
        *_converter_notes(report),
        "Parentheses hold 95 % intervals.",
        *([compared] if report.circuit_images else []),
        "NF is that of the exact circuit on the inputs that reach each layer.",
    ]


def _print(report: Prediction, title: str) -> None:
    console = make_report_console()
    for name, header, rows in (
        (title, _STAGES, stage_rows(report)),
        ("layer by layer", layer_header(report), layer_rows(report)),
    ):
        table = Table(title=name, box=SIMPLE_HEAD, pad_edge=False)
        for k, column in enumerate(header):
            table.add_column(column, justify="left" if k == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in _notes(report):
        console.print(note, highlight=False)


def _write(report: Prediction, title: str, details: dict[str, Any], out: Path) -> None:
    write_json(out / "report.json", details)
    text = make_markdown_page(
        title, _notes(report), [(_STAGES, stage_rows(report)), (layer_header(report), layer_rows(report))]
    )
    (out / "report.md").write_text(text, encoding="utf-8")
    tables = [make_html_table(_STAGES, stage_rows(report)), make_html_table(layer_header(report), layer_rows(report))]
    notes, figures = _notes(report), []
    try:
        figures = _figures(details, out)
    except MissingDependencyError as error:
        notes.append(f"No figures: {error}")
    write_page(out / "report.html", title, notes, tables, figures, details)


def _figures(details: dict[str, Any], out: Path) -> list[Path]:
    from geniex.plotting import plot_layer_nf, plot_stages, save_plot

    layers = {layer["name"]: layer for layer in details["layers"]}
    return [
        save_plot(plot_stages(details["stages"]), out / "stages.png"),
        save_plot(plot_layer_nf(layers), out / "layers.png"),
    ]
