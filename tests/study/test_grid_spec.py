"""What a study asks for: every combination once, and whatever cannot be is told by its name before anything runs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from geniex.cells import LinearCell, OneTransistorOneResistor, SinhCell
from geniex.errors import InputError
from geniex.preset import presets
from geniex.study.configs import find_study, list_shipped_studies
from geniex.study.grid import PointSettings, StudySpec
from geniex.study.grid.groups import EmulatorCheck, FineTuning, Pruning
from geniex.study.grid.settings import AFTERWARDS
from geniex.variation import FiniteStates, ReadNoise, StuckCells, variation_presets

DESIGN_SPACES = ("dense-sparse.yaml", "geniex-precision-slices.yaml", "geniex-size-ron-onoff.yaml", "sparse-xbar.yaml")
STUDIES = (*DESIGN_SPACES, "fine-tuning.yaml", "xchangr.yaml")


def settings(given: dict[str, Any]) -> list[PointSettings]:
    return [PointSettings.of(point.settings) for point in StudySpec.of(given).points()]


def labels(given: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(point.labels.values()) for point in StudySpec.of(given).points()]


def test_a_grid_is_the_product_of_its_axes() -> None:
    axes = {"tile": [16, 32, 64], "emulator": ["linear", "ideal"], "window.on_off": [2, 6.5]}
    assert labels({"grid": axes}) == list(itertools.product(*axes.values()))


def test_axes_in_step_are_zipped_and_groups_of_them_multiplied() -> None:
    first = {"architecture.slice_bits": [1, 2], "architecture.stream_bits": [3, 4]}
    second = {"tile": [8, 16, 32], "v_max": [0.1, 0.2, 0.3]}
    got = labels({"grid": {"emulator": ["linear", "ideal"]}, "zip": [first, second]})
    pairs = itertools.product(
        ["linear", "ideal"], zip(*first.values(), strict=True), zip(*second.values(), strict=True)
    )
    assert got == [(a, *b, *c) for a, b, c in pairs]
    assert labels({"zip": first}) == [(1, 3), (2, 4)]


def test_parts_are_united_and_share_what_is_above_them() -> None:
    given = {
        "v_max": 0.1,
        "grid": {"emulator": ["linear", "ideal"]},
        "parts": [
            {"name": "a", "grid": {"tile": [16, 32]}},
            {"name": "b", "v_max": 0.2, "zip": {"window.r_on": [2e4, 1e5]}},
            {"name": "c"},
        ],
    }
    points = StudySpec.of(given).points()
    assert [p.part for p in points] == ["a"] * 4 + ["b"] * 4 + ["c"] * 2
    assert [tuple(p.labels.values()) for p in points[:4]] == list(itertools.product(["linear", "ideal"], [16, 32]))
    assert {(p.part, PointSettings.of(p.settings).architecture.v_max) for p in points} == {
        ("a", 0.1),
        ("b", 0.2),
        ("c", 0.1),
    }
    assert StudySpec.of(given).axes == ("emulator", "tile", "window.r_on")


def test_a_study_without_axes_is_one_point() -> None:
    assert labels({}) == [()]


def test_settings_reach_what_they_name() -> None:
    (one,) = settings(
        {
            "preset": "yale-64",
            "tile": [32, 16],
            "crossbar": {"r_source": 7.0, "cell": {"v0": 0.4}},
            "window.r_on": 3e4,
            "v_max": 0.3,
            "architecture": {"weight_bits": 6, "offset": "ideal_after"},
            "layout": "dense",
            "mitigation": ["batch_norm", "srs"],
            "network": ["fashion-vgg-0", "fashion-vgg-1"],
            "seed": 5,
        }
    )
    assert one.crossbar == presets["yale-64"].crossbar.replace(rows=32, cols=16, r_source=7.0, cell=SinhCell(0.4))
    arch = one.architecture
    assert (arch.tile, arch.window.r_on, arch.window.on_off, arch.v_max) == ((32, 16), 3e4, 10.0, 0.3)
    assert (arch.weight_bits, arch.offset, one.layout, one.seed) == (6, "ideal_after", "dense", 5)
    assert one.mitigation == ("srs", "batch_norm")
    assert one.networks == ("fashion-vgg-0", "fashion-vgg-1")


def test_a_wire_resistance_overrides_those_of_rows_and_columns_of_the_preset() -> None:
    (one,) = settings({"preset": "yale-64", "crossbar.r_wire": 3.0})
    assert (one.crossbar.wires.r_row, one.crossbar.wires.r_col) == (3.0, 3.0)
    (other,) = settings({"preset": "yale-64", "crossbar": {"r_wire": 3.0, "r_wire_col": 4.0}})
    assert (other.crossbar.wires.r_row, other.crossbar.wires.r_col) == (3.0, 4.0)


def test_cells_are_named_by_their_type() -> None:
    one, other = settings({"grid": {"crossbar.cell": {"lin": {"_type": "LinearCell"}, "1T1R": _SERIES}}})
    assert one.crossbar.cell == LinearCell()
    assert other.crossbar.cell == OneTransistorOneResistor(SinhCell(0.3), r_access=5e3)
    (short,) = settings({"crossbar.cell": "LinearCell"})
    assert short.crossbar.cell == LinearCell()


_SERIES = {"_type": "OneTransistorOneResistor", "cell": {"_type": "SinhCell", "v0": 0.3}, "r_access": 5e3}


def test_variations_happen_in_their_order_and_presets_go_by_name() -> None:
    steps = {"read_noise": {"relative": 0.1}, "stuck_cells": {"off": 0.1, "on": 0.2}, "finite_states": {"states": 4}}
    (one,) = settings({"variation": steps, "draws": 3})
    assert one.variations is not None
    assert one.variations.steps == (FiniteStates(4), StuckCells(0.1, 0.2))
    assert one.variations.read_noise == ReadNoise(relative=0.1)
    assert one.draws == 3
    none, preset, own = settings(
        {"draws": 2, "grid": {"variation": {"none": None, "stuck": "rram-stuck", "own": {"finite_states.states": 2}}}}
    )
    assert (none.variations, none.draws) == (None, 1)  # nothing is drawn
    assert preset.variations == variation_presets["rram-stuck"].variations
    assert own.variations is not None
    assert own.variations.steps == (FiniteStates(2),)


def test_a_variation_may_be_varied_member_by_member_above_none() -> None:
    got = settings({"variation": None, "grid": {"variation.finite_states.states": [2, 4]}})
    assert [one.variations.steps for one in got if one.variations] == [(FiniteStates(2),), (FiniteStates(4),)]


def test_a_whole_group_replaces_the_members_below_it() -> None:
    base = {"variation": {"stuck_cells": {"off": 0.1, "on": 0.2}}, "crossbar.cell": {"v0": 0.4}}
    axes = {"variation": [None, "rram-stuck"], "crossbar.cell": {"linear": "LinearCell"}}
    none, stuck = settings(base | {"grid": axes})
    assert (none.variations, stuck.variations) == (None, variation_presets["rram-stuck"].variations)
    assert none.crossbar.cell == LinearCell()


def test_yaml_words_and_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("variation: {stuck_cells: {off: 0.1, on: 0.2}}\ngrid: {window.r_on: [50e3, 1e5]}\n")
    spec = StudySpec.of(path)
    points = [PointSettings.of(point.settings) for point in spec.points()]
    assert [one.architecture.window.r_on for one in points] == [50e3, 1e5]
    assert points[0].variations is not None
    assert points[0].variations.steps == (StuckCells(0.1, 0.2),)
    assert spec.title == "a"


def test_pruning_by_name_or_by_field() -> None:
    none, cf = settings({"grid": {"prune": [None, "cf"]}})
    assert (none.prune, cf.prune) == (None, Pruning(method="cf"))
    (own,) = settings({"prune": {"method": "xcs", "sparsity": 0.2, "tile": [8, 4], "skip": ["a"]}})
    assert own.prune == Pruning(method="xcs", sparsity=0.2, tile=(8, 4), skip=("a",))
    off, on = settings({"grid": {"prune.method": [None, "xrs"]}})
    assert (off.prune, on.prune) == (None, Pruning(method="xrs"))


def test_mitigations_are_joined_by_plus() -> None:
    got = settings({"grid": {"mitigation": ["none", "gain", "srs + gain", ["batch_norm", "rearrange"]]}})
    assert [one.mitigation for one in got] == [(), ("gain",), ("srs", "gain"), ("rearrange", "batch_norm")]


def test_labels_tell_values() -> None:
    given = {"grid": {"tile": [16, [32, 8]], "network": {"dense": ["a", "b"], "cf": ["c", "d"]}}}
    assert labels(given) == [(16, "dense"), (16, "cf"), ("32x8", "dense"), ("32x8", "cf")]
    assert labels({"grid": {"mitigation": [None, ["srs", "gain"]]}}) == [("none",), ("srs + gain",)]


def test_changes_override_every_part() -> None:
    given = {"images": 5, "parts": [{"name": "a", "images": 7}, {"name": "b", "grid": {"tile": [16]}}]}
    got = [PointSettings.of(p.settings) for p in StudySpec.of(given, {"images": 3, "crossbar.r_wire": 9}).points()]
    assert [(one.images, one.crossbar.r_wire) for one in got] == [(3, 9), (3, 9)]
    with pytest.raises(InputError, match=r"tile: got an axis of this study"):
        StudySpec.of(given, {"tile": 8})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tyle": 3}, r"tyle: got an unknown field; did you mean tile\? fields are network, .*title"),
        ({"crossbar": {"r_wires": 1}}, r"crossbar.r_wires: .*did you mean r_wire\? fields are rows, cols"),
        ({"architecture.tile": 16}, r"architecture.tile: .*set tile"),
        ({"architecture": {"window": 1}}, r"architecture.window: .*window.r_on and window.on_off"),
        ({"architecture.adc.bits": 1}, r"architecture.adc: got an unknown field"),
        ({"tile.rows": 1}, r"tile.rows: got an unknown field; tile has no fields"),
        ({"crossbar": 3}, r"crossbar: got 3; it must be a mapping of rows"),
        ({"variation": {"drift": {"hours": 1}}}, r"variation.drift.hours: .*seconds"),
        ({"variation": {"shift": 1}}, r"variation.shift: .*finite_states"),
        ({"variation": "pcm"}, r"variation: got 'pcm'; presets are pcm-20-s"),
        ({"variation": 3}, r"variation: got 3; it must be a preset"),
        ({"variation": {"stuck_cells": 3}}, r"variation.stuck_cells: got 3"),
        ({"variation": {"stuck_cells": {"off": 0.1}}}, r"variation.stuck_cells.on: got no value"),
        ({"variation": "rram-stuck", "variation.drift.seconds": 3}, r"variation.drift.seconds: got 3, while variation"),
        ({"window": {"r_on": 1e5}, "window.r_on": 2e5}, r"window.r_on: got 200000.0; it is given twice"),
        ({"tile": 16, "crossbar.rows": 8}, r"tile: got 16; it contradicts crossbar.rows"),
        ({"tile": 0}, r"tile: got 0"),
        ({"tile": [1, 2, 3]}, r"tile: got \[1, 2, 3\]; it must be a number"),
        ({"window.on_off": 0.5}, r"window.on_off: got 0.5"),
        ({"v_max": -1}, r"v_max: got -1"),
        ({"crossbar.r_wire": -1}, r"crossbar.r_wire: got -1"),
        ({"crossbar.cell.v1": 1}, r"crossbar.cell.v1: .*a SinhCell has the fields v0"),
        ({"crossbar.cell": "Cell9"}, r"crossbar.cell._type: got 'Cell9'"),
        ({"architecture.weight_bits": 99}, r"architecture.weight_bits: got 99"),
        ({"preset": "geniex-65"}, r"preset: got 'geniex-65'; presets are geniex-16"),
        ({"data": "mnist"}, r"data: got 'mnist'; it must be one of fashion-mnist"),
        ({"layout": "thick"}, r"layout: got 'thick'"),
        ({"fold": "yes"}, r"fold: got 'yes'; it must be a bool"),
        ({"emulator": 3}, r"emulator: got 3"),
        ({"images": 0}, r"images: got 0"),
        ({"calibration_images": None}, r"calibration_images: got None"),
        ({"energy": "none"}, r"energy: got 'none'; it must be one of emulator, ideal"),
        ({"draws": 1.5}, r"draws: got 1.5"),
        ({"fine_tuning.steps": 0}, r"fine_tuning.steps: got 0"),
        ({"fine_tuning.batch": 0}, r"fine_tuning.batch: got 0"),
        ({"fine_tuning.gradients": "exact"}, r"fine_tuning.gradients: got 'exact'; it must be one of emulator, ideal"),
        ({"fine_tuning.learning_rates": []}, r"fine_tuning.learning_rates: got \[\]; give at least one"),
        (
            {"fine_tuning.learning_rates": [0.1, 0.1]},
            r"learning_rates: got \[0.1, 0.1\]; .*each rate once",
        ),
        ({"fine_tuning.learning_rates": [0.1, 0]}, r"fine_tuning.learning_rates: got 0"),
        (
            {"fine_tuning.learning_rates": [0.1, 0.2]},
            r"fine_tuning.left_out: got 0; several learning rates are compared on",
        ),
        ({"fine_tuning.left_out": -1}, r"fine_tuning.left_out: got -1"),
        ({"fine_tuning.step": 1}, r"fine_tuning.step: .*did you mean steps"),
        ({"fine_tuning": 3}, r"fine_tuning: got 3; it must be a mapping of steps"),
        ({"check.images": 3}, r"check.images: got 3; it needs check.emulator"),
        ({"check": 3}, r"check.emulator: got 3"),
        ({"check": {"emulator": "physics", "images": 0}}, r"check.images: got 0"),
        ({"first_images": 0}, r"first_images: got 0"),
        ({"images": 10, "first_images": 11}, r"first_images: got 11; it must be at most images \(10\)"),
        ({"calibration_start": -1}, r"calibration_start: got -1; it must be a whole number, 0 or above"),
        ({"calibration_start": True}, r"calibration_start: got True"),
        ({"remapping_images": 129}, r"remapping_images: got 129; it must be at most calibration_images \(128\)"),
        ({"circuit_positions": 1.5}, r"circuit_positions: got 1.5"),
        (
            {"circuit_positions": 3, "mitigation": "gain"},
            r"circuit_positions: got 3; .*0 in a part with gain",
        ),
        ({"circuit_positions": 3, "variation": "rram-stuck"}, r"circuit_positions: got 3; .*part with variation"),
        ({"seed": -1}, r"seed: got -1"),
        ({"network": 3}, r"network: got 3"),
        ({"network": []}, r"network: got \[\]"),
        ({"network": ["a", "a"]}, r"network: got \['a', 'a'\]; each name may occur only once"),
        ({"mitigation": "magic"}, r"mitigation: got 'magic'; it must be one of none, random"),
        ({"mitigation": "srs + drs"}, r"mitigation: got 'srs \+ drs'; it may hold at most one remapping"),
        ({"mitigation": 3}, r"mitigation: got 3"),
        ({"prune": "half"}, r"prune.method: got 'half'"),
        ({"prune.sparsity": 0.5}, r"prune.sparsity: got 0.5; it needs prune.method"),
        ({"prune": {"method": "cf", "sparsity": 1.0}}, r"prune.sparsity: got 1.0"),
        ({"prune": {"method": "cf", "skip": 3}}, r"prune.skip: got 3"),
        ({"grid": [1]}, r"grid: got \[1\]; it must be a mapping"),
        ({"grid": {"tile": 3}}, r"tile: got 3; an axis must be a list"),
        ({"grid": {"tile": []}}, r"tile: got \[\]; an axis needs at least one value"),
        ({"grid": {"tile": [3, 3]}}, r"tile: got \[3, 3\]; each value needs a different label"),
        ({"grid": {"crossbar": [3]}}, r"crossbar: got 3; it must be a mapping"),
        ({"grid": {"tiles": [3]}}, r"tiles: got an unknown field"),
        ({"zip": {"tile": [1, 2], "v_max": [1]}}, r"zip: got axes of .*equally many values"),
        ({"grid": {"tile": [1]}, "zip": {"tile": [2]}}, r"tile: got an axis that occurs twice"),
        (
            {"grid": {"crossbar": {"a": {}}, "crossbar.rows": [2]}},
            r"crossbar.rows: got a field within the axis crossbar",
        ),
        ({"parts": []}, r"parts: got \[\]"),
        ({"parts": [3]}, r"parts\[0\]: got 3"),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, r"parts: got \['a', 'a'\]"),
        ({"parts": [{"gird": {}}]}, r"gird: got an unknown field; did you mean grid\?|gird: got an unknown field"),
        ({"baseline": {"tile": 16}}, r"baseline.tile: got an unknown field"),
        ({"grid": {"tile": [8, 16]}, "baseline": {"tile": 32}}, r"baseline.tile: got 32; values are"),
        ({"baseline": 3}, r"baseline: got 3; it must be a mapping"),
    ],
)
def test_what_cannot_be_is_told_by_its_name(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        settings(given)


def test_files_that_are_missing_or_no_yaml_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file: give a file, or one of dense-sparse.yaml"):
        StudySpec.of(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(InputError, match=r"cannot be read as YAML"):
        StudySpec.of(broken)
    broken.write_text("- 1\n")
    with pytest.raises(InputError, match=r"broken.yaml: config: got \[1\]; it must be a mapping"):
        StudySpec.of(broken)


def test_what_is_offered_in_place_of_an_unknown_study_runs() -> None:
    with pytest.raises(InputError) as error:
        StudySpec.of("nope.yaml")
    offered = error.value.allowed.partition("one of ")[2].split(", ")
    assert offered == list_shipped_studies() == sorted(STUDIES)
    for name in offered:
        assert StudySpec.of(name).points()


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_studies_ask_for_what_there_is(name: str) -> None:
    assert name in list_shipped_studies()
    spec = StudySpec.of(name)
    points = [PointSettings.of(point.settings) for point in spec.points()]
    assert len(points) >= (20 if name != "fine-tuning.yaml" else 3)
    assert bool(spec.baseline) == (name in DESIGN_SPACES and name != "geniex-precision-slices.yaml")
    assert spec.about
    text = find_study(name).read_text()
    assert f"geniex study {name}" in text
    assert "cifar10" in text


def test_the_size_study_is_geniex_s_figures_by_both_models() -> None:
    points = list(StudySpec.of("geniex-size-ron-onoff.yaml").points())
    asked: dict[str, set[Any]] = {}
    for point in points:
        c = PointSettings.of(point.settings)
        asked.setdefault(point.part, set()).add(
            (*c.architecture.tile, c.architecture.window.r_on, c.architecture.window.on_off, c.emulator)
        )
        assert c.crossbar.wires == presets["geniex-64"].crossbar.wires
    models, r_on = ("linear", "physics-fast"), (50e3, 100e3, 300e3)
    assert asked["size"] == {(n, n, r, 6, e) for n, r, e in itertools.product((16, 32, 64), r_on, models)}
    assert asked["on/off"] == {(64, 64, r, k, e) for k, r, e in itertools.product((2, 6, 10), r_on, models)}


@pytest.mark.parametrize("name", DESIGN_SPACES)
def test_each_design_space_has_both_surrogates_side_by_side(name: str) -> None:
    settings = [point.settings for point in StudySpec.of(name).points() if point.part == "finer surrogate"]
    alike = [{key: value for key, value in own.items() if key != "emulator"} for own in settings]
    for own in alike:
        both = [s["emulator"] for s, other in zip(settings, alike, strict=True) if other == own]
        assert sorted(both) == ["physics", "physics-fast"]
    assert settings


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_studies_say_what_their_converters_are_and_why(name: str) -> None:
    """Their tables must not follow what the defaults become."""
    text = find_study(name).read_text()
    asked = yaml.safe_load(text)["architecture"]
    if name == "fine-tuning.yaml":
        assert (asked["adc_range"], asked["accumulator_bits"]) == ("calibrated", None)
    else:
        assert asked["adc_range"] in ("unit", "full_scale")
        assert (asked["accumulator_bits"], asked["accumulator_frac_bits"]) == (32, 24)
        assert asked["accumulator_overflow"] == "wrap"
    lines = text.splitlines()
    for k, line in enumerate(lines):
        if "adc_range:" in line or "accumulator_bits:" in line:
            assert "#" in line or lines[k - 2].strip().startswith("#"), line


def test_the_remapping_study_is_checked_by_the_circuit_and_has_its_controls() -> None:
    points = {p.labels["mitigation"]: PointSettings.of(p.settings) for p in StudySpec.of("xchangr.yaml").points()}
    remappings = [one for one in points.values() if one.circuit_positions]
    assert {one.remapping for one in remappings} >= {"none", "random", "l1", "srs", "drs", "assignment"}
    assert all(one.images is None and one.first_images is None for one in remappings)
    assert {one.mitigation[-1] for one in points.values() if one not in remappings} == set(AFTERWARDS)
    # What the controls are compared with, the same crossbars without mitigation, is among the remappings.
    assert {one.unmitigated for one in points.values()} == {points["none"].unmitigated}


def test_fine_tuning_is_studied_by_both_gradients_on_the_same_crossbars() -> None:
    before, *after = [PointSettings.of(p.settings) for p in StudySpec.of("fine-tuning.yaml").points()]
    assert before.mitigation == ()
    assert [one.fine_tuning.gradients for one in after] == ["ideal", "emulator"]
    assert {one.unmitigated for one in after} == {before.unmitigated}
    assert after[0].check == before.check is not None


def test_fine_tuning_is_set_by_its_fields() -> None:
    one, other = settings(
        {
            "mitigation": "fine_tuning",
            "fine_tuning": {"steps": 3, "learning_rates": [1e-3, 3e-3], "left_out": 10},
            "grid": {"fine_tuning.gradients": ["ideal", "emulator"]},
        }
    )
    assert one.fine_tuning == FineTuning(steps=3, learning_rates=(1e-3, 3e-3), left_out=10)
    assert other.fine_tuning.gradients == "emulator"
    (single,) = settings({"fine_tuning.learning_rates": 2e-3})
    assert single.fine_tuning.learning_rates == (2e-3,)


def test_checks_are_set_by_name_or_by_fields() -> None:
    none, named, own = settings({"grid": {"check": {"none": None, "finer": "physics", "own": {"emulator": "circuit"}}}})
    assert (none.check, named.check) == (None, EmulatorCheck(emulator="physics"))
    assert own.check == EmulatorCheck(emulator="circuit", images=100)
