"""What ``geniex predict`` says of layers' converters, from a result made up by hand."""

from __future__ import annotations

import dataclasses

from geniex.cli.predict import _notes, layer_header, layer_rows
from geniex.study.accuracy import LayerFigures, Prediction

LAYERS = (
    LayerFigures("features.0", 100, 0.02, 0.01, 0.0, 0.05, adc_clipped=0.0004, adc_codes_used=0.61, overflowed=None),
    LayerFigures("classifier", 80, 0.03, 0.01, 0.0, 0.06, adc_clipped=0.0321, adc_codes_used=0.05, overflowed=None),
)


def prediction(*layers: LayerFigures) -> Prediction:
    return Prediction((), layers, 0, {})


def test_clipping_and_codes_stand_beside_the_nf() -> None:
    report = prediction(*LAYERS)
    header, rows = layer_header(report), layer_rows(report)
    assert header[-2:] == ("ADC clips", "ADC codes used")
    assert [row[-2:] for row in rows] == [("0.04%", "61.00%"), ("3.21%", "5.00%")]
    assert all(len(row) == len(header) for row in rows)


def test_layers_that_clip_more_than_a_thousandth_are_named() -> None:
    (warning,) = [note for note in _notes(prediction(*LAYERS)) if note.startswith("Warning")]
    assert "classifier (3.21%)" in warning
    assert "features.0" not in warning


def test_layers_whose_sums_overflow_are_named() -> None:
    layers = [dataclasses.replace(layer, adc_clipped=0.0, overflowed=k / 4) for k, layer in enumerate(LAYERS)]
    report = prediction(*layers)
    assert layer_header(report)[-1] == "overflows"
    assert [row[-1] for row in layer_rows(report)] == ["0.00%", "25.00%"]
    (warning,) = [note for note in _notes(report) if note.startswith("Warning")]
    assert "overflow in classifier (25.00%)" in warning


def test_without_converters_there_are_no_such_columns() -> None:
    report = prediction(LayerFigures("fc", 10, 0.1, 0.0, 0.1, 0.1))
    assert layer_header(report) == ("layer", "NF mean", "NF std", "5 %", "95 %", "currents")
    assert not [note for note in _notes(report) if "ADC" in note]
