"""The named circuits against what their sources say."""

import pytest

from geniex.config import Config
from geniex.errors import InputError
from geniex.preset import presets


@pytest.mark.parametrize(
    ("name", "size", "source", "sink", "row", "col", "r_on", "on_off", "v_max"),
    [
        ("geniex-16", 16, 500, 100, 2.5, 2.5, 100e3, 6, 0.25),
        ("geniex-32", 32, 500, 100, 2.5, 2.5, 100e3, 6, 0.25),
        ("geniex-64", 64, 500, 100, 2.5, 2.5, 100e3, 6, 0.25),
        ("harsh-64", 64, 500, 100, 5, 5, 20e3, 10, 0.5),
        ("yale-64", 64, 1e3, 1e3, 5, 10, 20e3, 10, 0.25),
        ("wire-128", 128, 0, 0, 2, 2, 20e3, 10, 0.25),
        ("wire-128-harsh", 128, 0, 0, 2.5, 2.5, 20e3, 10, 0.25),
    ],
)
def test_values_are_the_sources(
    name: str, size: int, source: float, sink: float, row: float, col: float, r_on: float, on_off: float, v_max: float
) -> None:
    preset = presets[name]
    crossbar, wires = preset.crossbar, preset.crossbar.wires
    assert (crossbar.rows, crossbar.cols) == (size, size)
    assert (wires.r_source, wires.r_sink, wires.r_row, wires.r_col) == (source, sink, row, col)
    assert (preset.window.r_on, preset.window.on_off, preset.v_max) == (r_on, on_off, v_max)
    architecture = preset.architecture(weight_bits=8)
    assert (architecture.tile, architecture.window, architecture.v_max) == ((size, size), preset.window, v_max)
    assert architecture.weight_bits == 8
    assert Config.from_dict(preset.to_dict()) == preset


def test_every_preset_is_held_to_its_source() -> None:
    assert set(presets) == {"geniex-16", "geniex-32", "geniex-64", "harsh-64", "yale-64", "wire-128", "wire-128-harsh"}
    assert all(preset.source for preset in presets.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crossbar": None}, "crossbar: got None; it must be a Crossbar"),
        ({"window": "x"}, "window: got 'x'"),
        ({"v_max": -1}, "v_max"),
    ],
)
def test_what_is_no_circuit_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config.from_dict({**presets["geniex-64"].to_dict(), **change})
