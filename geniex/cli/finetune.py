"""``geniex finetune``: one network, trained further on the crossbars that it will run on."""

from __future__ import annotations

from pathlib import Path

from geniex.cli._one_model import run_and_report
from geniex.mapping import AdcRange
from geniex.simulator.matrix import Gradients


def finetune(
    network: str = "fashion-cnn",
    data: str = "fashion-mnist",
    preset: str = "harsh-64",
    surrogate: str = "physics-fast",
    gradients: Gradients = "emulator",
    steps: int = 100,
    batch: int = 64,
    learning_rate: list[float] | None = None,
    left_out: int = 500,
    images: int | None = 1000,
    check: str | None = "physics",
    check_images: int = 100,
    weight_bits: int = 8,
    input_bits: int = 8,
    slice_bits: int = 4,
    stream_bits: int = 4,
    adc_bits: int | None = 14,
    adc_range: AdcRange = "auto",
    seed: int = 0,
    device: str = "cpu",
    data_root: Path | None = None,
    out: Path | None = None,
    json: Path | None = None,
) -> None:
    """Fine-tune a network on its crossbars and report its accuracy before and after.

    The loss is on the crossbars' outputs. A study compares gradients, learning rates and networks: geniex study
    fine-tuning.yaml.

    Args:
        network: name of a shipped network, or path of a network's checkpoint.
        data: data set whose training images are learnt and whose test images are classified.
        preset: shipped setting of the crossbar, its conductance window and its read voltage.
        surrogate: surrogate that emulates this crossbar: a shipped name or a checkpoint's path.
        gradients: the crossbars' own gradients (emulator), or those of ideal crossbars (ideal).
        steps: number of training steps.
        batch: images per step.
        learning_rate: learning rate to try; repeat the option for several; 0.0003 and 0.001 if not given.
        left_out: number of training images that are left out of training; the learning rate with the lowest loss on
            them is taken.
        images: number of test images, drawn at random with the seed; null is all.
        check: another surrogate, or circuit for the exact circuit, that checks the accuracies; null for none.
        check_images: how many of the test images the check classifies.
        weight_bits: bits of a weight, sign included.
        input_bits: bits of an input, sign included.
        slice_bits: bits of a weight that one cell holds.
        stream_bits: bits of an input that one read applies.
        adc_bits: bits of the ADC; null is an ADC that never clips.
        adc_range: range of the ADC codes: the counts that occur on 128 training images (auto, calibrated), the largest
            count of an ideal tile (full_scale), or one count per code (unit).
        seed: seed for the choice of images, their order and their augmentation.
        device: device to compute on, such as cpu or cuda.
        data_root: folder of the data set, if it is not in the default place.
        out: folder for report.html, report.md, report.json, tables, figures and the fine-tuned converted network
            (model.json, model.safetensors), which load_converted(path, network) reads.
        json: file for the machine-readable report only.
    """
    settings = {
        "title": f"Fine-tuning with {gradients} gradients: {network} on {data}, {preset}",
        "network": network,
        "data": data,
        "preset": preset,
        "emulator": surrogate,
        "images": images,
        "calibration_images": 128,
        "calibration_start": left_out,
        "check": None if check is None else {"emulator": check, "images": check_images},
        "architecture": {
            "weight_bits": weight_bits,
            "input_bits": input_bits,
            "slice_bits": slice_bits,
            "stream_bits": stream_bits,
            "adc_bits": adc_bits,
            "adc_range": adc_range,
        },
        "fine_tuning": {
            "steps": steps,
            "batch": batch,
            "learning_rates": [3e-4, 1e-3] if learning_rate is None else learning_rate,
            "gradients": gradients,
            "left_out": left_out,
        },
        "seed": seed,
    }
    run_and_report(settings, "fine_tuning", "fine-tuned", device=device, data_root=data_root, out=out, json=json)
