"""What a conversion reports, before and after: counted by hand, and estimates against what they estimate."""

from __future__ import annotations

import json

import pytest
import torch
import torchvision
from torch import nn

from geniex.circuit import Crossbar
from geniex.emulator import IdealEmulator, LinearEmulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture
from geniex.simulator import ConversionReport, LayerRule, convert, dry_run, find_crossbar_matrices

ARCH = Architecture(tile=(32, 32), weight_bits=9, input_bits=8, slice_bits=4, stream_bits=4)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=4, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 20)
    ).eval()


@pytest.mark.slow
def test_a_dry_run_tells_what_the_conversion_then_is() -> None:
    model, x, emulator = network(), torch.rand(6, 4, 8, 8), LinearEmulator(Crossbar(32, 32))
    dry = dry_run(model, ARCH, emulator, example=x)
    wet = convert(model, ARCH, emulator, calibration=x).conversion
    assert isinstance(wet, ConversionReport)
    for name in ("arrays", "utilisation", "bytes"):
        assert getattr(dry, name) == pytest.approx(getattr(wet, name))
    assert [layer.name for layer in dry.layers] == [layer.name for layer in wet.layers] == ["0", "1", "4"]
    for layer in dry.layers:
        assert layer.arrays == wet.layer(layer.name).arrays
    assert dry.program_seconds is not None
    assert dry.program_seconds > 0
    assert "programming takes about" in str(dry)
    # What was converted twice is reported twice the same.
    assert wet == convert(model, ARCH, emulator, calibration=x).conversion


def test_counts_are_those_done_by_hand() -> None:
    """Two slices an output: 16 outputs and 32 inputs on one of the two arrays of a tile."""
    report = dry_run(network(), ARCH, IdealEmulator(), example=torch.rand(6, 4, 8, 8))
    conv, linear = report.layer("0"), report.layer("4")
    # Three groups of 9 inputs on 27 word lines, and the fourth alone.
    assert (conv.matrices, conv.row_tiles, conv.col_tiles, conv.arrays) == (2, 1, 1, 4)
    assert conv.utilisation == pytest.approx(4 * 9 * 2 * 2 / (2 * 32 * 32))
    assert (linear.matrices, linear.row_tiles, linear.col_tiles, linear.arrays) == (1, 3, 2, 12)
    assert (conv.vectors, linear.vectors) == (9, 1)
    # 7 bits of magnitude in two streams, positive and negative.
    assert (conv.array_reads, linear.array_reads) == (9 * 4 * 4, 4 * 12)
    assert report.array_reads == 9 * 4 * 4 + 4 * 12
    assert report.arrays == 16
    # float32 conductances, and what makes their reads short.
    assert 16 * 32 * 32 * 4 <= report.bytes <= 3 * 16 * 32 * 32 * 4
    assert dry_run(network(), ARCH, IdealEmulator()).array_reads is None


def test_a_dry_run_needs_no_values() -> None:
    """An 86-million-weight transformer on the meta device; its arrays: 12 layers of 12 x 768 x 768 weights."""
    with torch.device("meta"):
        model, image = torchvision.models.vit_b_16(), torch.empty(1, 3, 224, 224)
    arch = Architecture(weight_bits=9)
    report = dry_run(model, arch, IdealEmulator(), example=image)
    tiles = 12 * 12 * (768 // 64) * (768 // 32) + 12 * 24 + 12 * -(-1000 // 32)
    assert report.arrays == 2 * tiles
    assert report.layer("encoder.layers.encoder_layer_3.self_attention.q_proj").vectors == 197
    assert report.layer("conv_proj").vectors == 196
    assert report.layer("").reason == "own parameters outside of its layers"
    assert report.bytes >= report.arrays * 64 * 64 * 4


def test_rules_reach_architecture_and_layout() -> None:
    model = nn.ModuleDict({"a": nn.Conv2d(8, 8, 3, groups=8), "b": nn.Conv2d(8, 8, 3, groups=8)})
    model["c"] = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=8))
    coarse = ARCH.replace(slice_bits=2)

    def matrices(per_layer: dict[str, LayerRule | Architecture | None]) -> dict[str, int]:
        report = dry_run(model, ARCH, IdealEmulator(), per_layer=per_layer)
        return {layer.name: layer.matrices for layer in report.layers}

    dense = LayerRule(layout="dense")
    assert matrices({}) == {"a": 3, "b": 3, "c.0": 3, "c.1": 3}
    assert matrices({"*": dense}) == {"a": 8, "b": 8, "c.0": 8, "c.1": 8}
    assert matrices({"*": dense, "c": coarse, "c.1": None}) == {"a": 8, "b": 8, "c.0": 3, "c.1": 0}
    assert matrices({"a": dense, "*": None, "[c]*": coarse}) == {"a": 8, "b": 0, "c.0": 3, "c.1": 3}
    with pytest.raises(InputError, match=r"layout: got 'woven'"):
        LayerRule(layout="woven")
    with pytest.raises(ConversionError, match="'d' names no layer"):
        matrices({"d": dense})


def test_histograms_count_every_cell() -> None:
    model, x = network(), torch.rand(6, 4, 8, 8)
    converted = convert(model, ARCH, IdealEmulator(), calibration=x)
    report = converted.conversion
    assert isinstance(report, ConversionReport)
    window = ARCH.window
    for name in ("0", "4"):
        histogram = report.histogram(name)
        counts = torch.zeros(16, dtype=torch.int64)
        for matrix in find_crossbar_matrices(converted[int(name)]).values():  # type: ignore[index]
            counts += torch.bincount(window.to_code(matrix.conductances, 16).flatten(), minlength=16)
        assert list(histogram.counts) == counts.tolist()
        centres = torch.tensor(histogram.edges).unfold(0, 2, 1).mean(1)
        assert torch.allclose(centres, window.to_conductance(torch.arange(16), 16))
    with pytest.raises(InputError, match="no programmed conductances"):
        report.histogram("1")
    with pytest.raises(InputError, match="layers are '0', '1', '4'"):
        report.histogram("conv")
    wide = convert(model[4], ARCH.replace(slice_bits=8), IdealEmulator(), calibration=torch.rand(6, 72)).conversion
    assert len(wide.histogram("").counts) == 64  # type: ignore[union-attr]
    assert sum(wide.histogram("").counts) == wide.arrays * 32 * 32  # type: ignore[union-attr]


def test_reports_are_readable_and_json_ready() -> None:
    report = convert(network(), ARCH, IdealEmulator(), calibration=torch.rand(6, 4, 8, 8)).conversion
    assert isinstance(report, ConversionReport)
    assert ConversionReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    lines = str(report).splitlines()
    assert lines[1].split()[:10] == ["0", "Conv2d", "crossbar", "4", "2", "of", "1", "x", "1", "7%"]
    assert lines[1].split()[10:] == ["24.6", "kB", "0.00%", f"{report.layer('0').adc_codes_used:.1%}"]
    assert lines[2].split(maxsplit=3) == ["1", "BatchNorm2d", "digital", "no matrix product"]
    assert lines[-2].startswith("16 arrays, ")
    assert lines[-1] == "ideal: no wires, linear cells"
    assert all(len(line) < 100 for line in lines)


def test_reads_show_every_matrix_of_a_layer() -> None:
    """On an ideal crossbar what is read is what should be, and adds up to the conductances times the drives."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 8, 3, groups=4), torch.rand(2, 4, 5, 5)
    layer = convert(conv, ARCH, IdealEmulator(), calibration=x)
    reads = layer.reads(layer.matrix_inputs(x))
    assert [r.actual.shape[1] for r in reads] == [2 * 9] * len(layer.matrices) == [18, 18]
    for read, matrix in zip(reads, layer.matrices, strict=True):
        torch.testing.assert_close(read.actual, read.ideal)
        torch.testing.assert_close(
            read.actual[..., 0, 0, 0, 0], (read.voltages * matrix.conductances[0, 0, 0, :, 0])[..., 0, 0, 0, :].sum(-1)
        )
