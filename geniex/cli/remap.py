"""``geniex remap``: one network on one crossbar, with its kernels moved to where wires cost least."""

from __future__ import annotations

from pathlib import Path

from geniex.cli._one_model import read_accumulator, run_and_report
from geniex.errors import InputError
from geniex.mapping import AdcRange, Offset
from geniex.mitigation import REMAPPINGS


def remap(
    network: str = "fashion-vgg-0",
    method: str = "assignment",
    data: str = "fashion-mnist",
    preset: str = "wire-128-harsh",
    surrogate: str = "physics-fast",
    images: int | None = 1000,
    calibration_images: int = 256,
    circuit_positions: int = 0,
    check: str | None = None,
    check_images: int = 100,
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
    """Move a network's kernels to where wires cost least and report its accuracy before and after.

    A study compares methods, controls and networks: geniex study xchangr.yaml.

    Args:
        network: name of a shipped network, or path of a network's checkpoint.
        method: remapping: random, l1, srs (static remapping by sensitivity), drs (dynamic remapping), srs_taylor,
            drs_taylor, assignment, assignment_mdm, mdm, wagonn, or rearrange (_ascending, _row_tile,
            _row_tile_ascending).
        data: data set whose test images are classified and whose training images the places are chosen on.
        preset: shipped setting of the crossbar, its conductance window and its read voltage.
        surrogate: surrogate that emulates this crossbar: a shipped name or a checkpoint's path.
        images: number of test images, drawn at random with the seed; null is all.
        calibration_images: number of training images that choose the input ranges and the places.
        circuit_positions: number of inputs per layer for which the exact circuit checks the layers' output errors; 0
            skips this check.
        check: another surrogate, or circuit for the exact circuit, that checks the accuracy; null for none.
        check_images: how many of the test images the check classifies.
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
        out: folder for report.html, report.md, report.json, tables, figures and the remapped converted network
            (model.json, model.safetensors), which load_converted(path, network) reads.
        json: file for the machine-readable report only.
    """
    methods = [name for name in REMAPPINGS if name != "none"]
    if method not in methods:
        raise InputError("method", repr(method), f"methods are {', '.join(methods)}")
    settings = {
        "title": f"Remapping by {method}: {network} on {data}, {preset}",
        "network": network,
        "data": data,
        "preset": preset,
        "emulator": surrogate,
        "images": images,
        "calibration_images": calibration_images,
        "circuit_positions": circuit_positions,
        "check": None if check is None else {"emulator": check, "images": check_images},
        "architecture": {
            "weight_bits": weight_bits,
            "input_bits": input_bits,
            "slice_bits": slice_bits,
            "stream_bits": stream_bits,
            "adc_bits": adc_bits,
            "adc_range": adc_range,
            "offset": offset,
            **read_accumulator(accumulator_bits, accumulator_frac_bits),
        },
        "seed": seed,
    }
    run_and_report(settings, method, "remapped", device=device, data_root=data_root, out=out, json=json)
