"""``geniex finetune``: how much of the accuracy lost on crossbars training on them recovers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from geniex.cli._console import report_console
from geniex.cli._files import check_file, check_folder, write_json
from geniex.cli._tables import number, plain_table
from geniex.cli.predict import Bars, share
from geniex.config import check_seed
from geniex.errors import InputError
from geniex.mapping import AdcRange
from geniex.networks import load_images, load_network
from geniex.preset import presets
from geniex.simulator import save_converted
from geniex.study.finetuning import FineTuningStudy, study_fine_tuning
from geniex.study.html import markdown_page

_STATES = ("network", "accuracy, %", "of the loss recovered, %", "checked accuracy, %", "checked agreement, %")
_RUNS = ("gradients", "learning rate", "training loss", "validation loss", "validation accuracy, %", "s a step")
_NAMES = {
    "float": "float",
    "before": "on crossbars, as it is",
    "plain": "fine-tuned, ideal gradients",
    "crossbar-aware": "fine-tuned, crossbar gradients",
}


def finetune(
    network: str = "fashion-cnn",
    data: str = "fashion-mnist",
    preset: str = "harsh-64",
    surrogate: str = "physics-fast",
    steps: int = 100,
    batch: int = 64,
    learning_rate: list[float] | None = None,
    images: int = 1000,
    check: str | None = "physics",
    check_images: int = 100,
    weight_bits: int = 8,
    input_bits: int = 8,
    slice_bits: int = 4,
    stream_bits: int = 4,
    adc_bits: int | None = 14,
    adc_range: AdcRange = "auto",
    seed: int = 0,
    data_root: Path | None = None,
    out: Path | None = None,
    json: Path | None = None,
) -> None:
    """Fine-tune a network on crossbars, once with the crossbars' own gradients and once with ideal gradients.

    Both trainings use the same batches and the crossbars' outputs. The learning rate of each is chosen on training
    images that are held out.

    Args:
        network: name of a shipped network, or path of a network's checkpoint.
        data: data set whose training images are learnt and whose test images are classified.
        preset: shipped setting of the crossbar, its conductance window and its read voltage.
        surrogate: surrogate that emulates this crossbar: a shipped name or a checkpoint's path.
        steps: number of steps of each training.
        batch: images per step.
        learning_rate: learning rate to try; repeat the option for several; 0.0003 and 0.001 if not given.
        images: number of test images, drawn at random with the seed.
        check: another surrogate, or circuit for the exact circuit, that checks the fine-tuned networks; null for none.
        check_images: how many of the test images the check classifies.
        weight_bits: bits of a weight, sign included.
        input_bits: bits of an input, sign included.
        slice_bits: bits of a weight that one cell holds.
        stream_bits: bits of an input that one read applies.
        adc_bits: bits of the ADC; null is an ADC that never clips.
        adc_range: range of the ADC codes: the counts that occur on 128 training images (auto, calibrated), the largest
            count of an ideal tile (full_scale), or one count per code (unit).
        seed: seed for the choice of images, their order and their augmentation.
        data_root: folder of the data set, if it is not in the default place.
        out: folder for report.md, report.json and the fine-tuned converted networks, which load_converted reads.
        json: file for the machine-readable report alone.
    """
    if preset not in presets:
        raise InputError("preset", repr(preset), f"presets are {', '.join(presets)}")
    check_seed(seed)
    check_file("json", json)
    check_folder("out", out)
    architecture = presets[preset].architecture(
        weight_bits=weight_bits,
        input_bits=input_bits,
        slice_bits=slice_bits,
        stream_bits=stream_bits,
        adc_bits=adc_bits,
        adc_range=adc_range,
    )
    model = load_network(network)
    training, tests = (load_images(data, train=train, root=data_root) for train in (True, False))
    if tests.shape != model.input_shape:
        raise InputError("data", f"{data!r} of shape {tests.shape}", f"{network} takes images of {model.input_shape}")
    with Bars() as bars:
        study = study_fine_tuning(
            model,
            training,
            tests.subset(images, seed),
            preset=presets[preset],
            architecture=architecture,
            surrogate=surrogate,
            steps=steps,
            batch=batch,
            learning_rates=learning_rate or (3e-4, 1e-3),
            check=check,
            check_images=check_images,
            seed=seed,
            progress=bars.update,
        )
    title = f"{network} on {data}, {preset}, {surrogate}"
    console = report_console()
    for table in _tables(study, title):
        console.print(table)
    for note in _notes(study):
        console.print(note, highlight=False, markup=False)
    details = {"asked": {"network": network, "data": data, "preset": preset}} | study.to_dict()
    write_json(json, details)
    if out is not None:
        write_json(out / "report.json", details)
        for method, tuned in study.models.items():
            save_converted(tuned, out / method)
        tables = [(_STATES, _state_rows(study)), (_RUNS, _run_rows(study))]
        (out / "report.md").write_text(markdown_page(title, _notes(study), tables), encoding="utf-8")


def _tables(study: FineTuningStudy, title: str) -> Iterator[Table]:
    for name, header, rows in ((title, _STATES, _state_rows(study)), ("trainings", _RUNS, _run_rows(study))):
        table = plain_table(escape(name), header[:1], header[1:])
        for row in rows:
            table.add_row(*row)
        yield table


def _state_rows(study: FineTuningStudy) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for s in study.states:
        back = "-"
        if s.recovered is not None:
            back = f"{100 * s.recovered:.0f}"
            if s.recovered_low is not None and s.recovered_high is not None:
                back += f" ({100 * s.recovered_low:.0f} to {100 * s.recovered_high:.0f})"
        checked = (number(value, ".1f", 100) for value in (s.check_accuracy, s.check_agreement))
        rows.append((_NAMES[s.name], share(s.accuracy, s.low, s.high), back, *checked))
    return rows


def _run_rows(study: FineTuningStudy) -> list[tuple[str, ...]]:
    return [
        (
            f"{'ideal' if r.method == 'plain' else 'crossbar'}{', chosen' if r.chosen else ''}",
            f"{r.learning_rate:g}",
            f"{r.training_loss:.3f}",
            f"{r.validation_loss:.3f}",
            f"{100 * r.validation_accuracy:.1f}",
            f"{r.seconds_per_step:.2g}",
        )
        for r in study.runs
    ]


def _notes(study: FineTuningStudy) -> list[str]:
    told: dict[str, Any] = study.configuration
    notes = [
        f"{told['test_images']} test images; in parentheses 95 % intervals, of what is recovered over the same images.",
        f"Both trainings: {told['steps']} steps of {told['batch']} images on the outputs of {told['surrogate']}, the"
        " same batches, learning rates and scales. Ideal gradients go back through the weights as if the crossbars were"
        " ideal, as the GENIEx authors' code does; crossbar gradients through the crossbars.",
        "Each training's learning rate is the one with the lowest loss on 500 training images left out.",
    ]
    if told["check"] is not None:
        notes.append(
            f"Checked by {told['check']} with the same weights and scales on the first {told['check_images']} images."
        )
    return notes
