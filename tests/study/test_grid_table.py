"""The tables of studies, from results made up by hand: intervals are SciPy's, differences in pairs, files whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_study import AXES, IMAGES, NETWORKS, MadeUp, made_up
from scipy import stats
from scipy.special import expit, logit

from geniex.errors import InputError, MissingDependencyError
from geniex.study.grid import write_study
from geniex.study.grid.files import to_parquet
from geniex.study.grid.pictures import draw_pictures, save_pictures
from geniex.study.grid.report import tabulate_summary, write_notes


def by_scipy(values: list[float]) -> tuple[float, float]:
    """Student's t of the mean share, on the logit scale by the delta method."""
    share = np.mean(values)
    return tuple(expit(stats.t.interval(0.95, len(values) - 1, logit(share), stats.sem(values) / (share - share**2))))


def apart_by_scipy(values: list[float], low: float, high: float) -> tuple[float, float]:
    """Student's t of the mean difference, cut off at its bounds."""
    ends = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return max(low, ends[0]), min(high, ends[1])


def positive_by_scipy(values: list[float]) -> tuple[float, float]:
    """The same on a logarithmic scale."""
    ends = stats.t.interval(0.95, len(values) - 1, np.log(np.mean(values)), stats.sem(values) / np.mean(values))
    return tuple(np.exp(ends))


def test_intervals_over_trainings_are_student_s() -> None:
    made = made_up({"network": NETWORKS, "grid": AXES, "baseline": {"mitigation": "none"}})
    for k, row in enumerate(made.study.summary):
        own = [made.right(f"point/{k}/{name}/0") for name in NETWORKS]
        ideal = [made.right(f"ideal/{k}/{name}/0") for name in NETWORKS]
        shares = [x.mean() for x in own]
        assert row["interval"] == "networks"
        assert row["accuracy"] == pytest.approx(np.mean(shares))
        assert (row["low"], row["high"]) == pytest.approx(by_scipy(shares))
        drops = [(a - b).mean() for a, b in zip(ideal, own, strict=True)]
        assert row["drop"] == pytest.approx(np.mean(drops))
        top = np.mean([x.mean() for x in ideal])
        assert (row["drop_low"], row["drop_high"]) == pytest.approx(apart_by_scipy(drops, top - 1, top))
        floats = [made.right(f"float/{k}/{name}/0") for name in NETWORKS]
        drops, top = [(a - b).mean() for a, b in zip(floats, own, strict=True)], np.mean([x.mean() for x in floats])
        assert row["float_drop"] == pytest.approx(np.mean(drops))
        assert (row["float_drop_low"], row["float_drop_high"]) == pytest.approx(apart_by_scipy(drops, top - 1, top))
        assert row["ideal_accuracy"] == pytest.approx(np.mean([x.mean() for x in ideal]))
        assert row["float_accuracy"] == pytest.approx(
            np.mean([made.right(f"float/{k}/{name}/0").mean() for name in NETWORKS])
        )
        assert (row["arrays"], row["reads"], row["seconds"]) == (10 + k, 100 * (k + 1), 1.0 + k)
        assert (row["trainings"], row["draws"], row["images"], row["failed"]) == (3, 1, IMAGES, 0)


def test_differences_are_of_the_point_alike_in_all_else_in_pairs() -> None:
    made = made_up({"network": NETWORKS, "grid": AXES, "baseline": {"mitigation": "none"}})
    rows = made.study.summary
    assert [row["difference"] is None for row in rows] == [True, False, True, False]
    for k in (1, 3):
        apart = [(made.right(f"point/{k}/{n}/0") - made.right(f"point/{k - 1}/{n}/0")).mean() for n in NETWORKS]
        assert rows[k]["difference"] == pytest.approx(np.mean(apart))
        base = np.mean([made.right(f"point/{k - 1}/{n}/0").mean() for n in NETWORKS])
        expected = apart_by_scipy(apart, -base, 1 - base)
        assert (rows[k]["difference_low"], rows[k]["difference_high"]) == pytest.approx(expected)
    assert "difference" not in made_up({"grid": AXES}).study.summary[0]


def test_one_named_point_may_be_the_baseline_of_all() -> None:
    made = made_up({"grid": AXES, "baseline": {"tile": "32x8", "mitigation": "gain"}})
    rows, base = made.study.summary, made.right("point/3/fashion-cnn/0")
    assert rows[3]["difference"] is None
    for k in range(3):
        assert rows[k]["difference"] == pytest.approx((made.right(f"point/{k}/fashion-cnn/0") - base).mean())


def test_other_trainings_are_paired_in_order() -> None:
    groups = {"dense": ["a", "b"], "pruned": ["c", "d"]}
    made = made_up({"grid": {"network": groups}, "baseline": {"network": "dense"}})
    apart = [
        (made.right(f"point/1/{y}/0") - made.right(f"point/0/{x}/0")).mean() for x, y in zip("ab", "cd", strict=True)
    ]
    assert made.study.summary[1]["difference"] == pytest.approx(np.mean(apart))
    assert [row["training"] for row in made.study.rows] == ["a", "b", "c", "d"]
    assert [row["network"] for row in made.study.rows] == ["dense", "dense", "pruned", "pruned"]


def test_logit_errors_have_intervals_over_trainings_draws_or_their_own_over_images() -> None:
    several = made_up({"network": NETWORKS, "grid": AXES})
    errors = [several.found[f"point/2/{name}/0"]["logit_error"][0] for name in NETWORKS]
    row = several.study.summary[2]
    assert row["logit_error"] == pytest.approx(np.mean(errors))
    assert (row["logit_error_low"], row["logit_error_high"]) == pytest.approx(positive_by_scipy(errors))
    ideal = [several.found[f"ideal/2/{name}/0"]["logit_error"][0] for name in NETWORKS]
    assert row["ideal_logit_error"] == pytest.approx(np.mean(ideal))
    drawn = made_up({"variation": {"finite_states": {"states": 4}}, "draws": 4})
    errors = [drawn.found[f"point/0/fashion-cnn/{k}"]["logit_error"][0] for k in range(4)]
    assert drawn.study.summary[0]["logit_error_low"] == pytest.approx(positive_by_scipy(errors)[0])
    alone = made_up({"grid": AXES})
    for table in (alone.study.rows, alone.study.summary):
        told = tuple(table[1][f"logit_error{end}"] for end in ("", "_low", "_high"))
        assert told == tuple(alone.found["point/1/fashion-cnn/0"]["logit_error"])
    alone.found["point/1/fashion-cnn/0"]["logit_error"] = [None, None, None]  # currents were no numbers
    assert alone.study.summary[1]["logit_error"] is None
    assert "-" in tabulate_summary(alone.study)["Summary"][1][1]


def test_draws_of_one_network_are_intervals_over_draws_and_of_several_no_repeats() -> None:
    varied = {"variation": {"finite_states": {"states": 4}}, "draws": 4}
    one = made_up(varied)
    shares = [one.right(f"point/0/fashion-cnn/{k}").mean() for k in range(4)]
    (row,) = one.study.summary
    assert row["interval"] == "draws"
    assert (row["low"], row["high"]) == pytest.approx(by_scipy(shares))
    several = made_up(varied | {"network": NETWORKS})
    means = [np.mean([several.right(f"point/0/{name}/{k}").mean() for k in range(4)]) for name in NETWORKS]
    (row,) = several.study.summary
    assert row["interval"] == "networks"
    assert (row["low"], row["high"]) == pytest.approx(by_scipy(means))


def test_draws_stand_beside_a_baseline_without_any() -> None:
    devices = {"none": None, "few": {"finite_states": {"states": 4}}}
    made = made_up({"grid": {"variation": devices}, "draws": 3, "baseline": {"variation": "none"}})
    base = made.right("point/0/fashion-cnn/0")
    apart = [(made.right(f"point/1/fashion-cnn/{k}") - base).mean() for k in range(3)]
    assert made.study.summary[1]["difference"] == pytest.approx(np.mean(apart))


@pytest.mark.parametrize("shares", [[0.01, 0.99, 0.8], [0.0, 0.0, 0.1], [1.0, 1.0, 1.0], [0.575, 0.2, 0.95]])
@pytest.mark.parametrize("reference", [0.02, 0.5, 0.98, 1.0])
def test_no_interval_leaves_0_to_100_percent(shares: list[float], reference: float) -> None:
    """Draws of stuck cells gave 57.5 % (-3 to 118)."""
    made = made_up(
        {
            "grid": {"variation.finite_states.states": [4, 8]},
            "draws": 3,
            "baseline": {"variation.finite_states.states": 4},
        }
    )
    for key, found in made.found.items():
        draw = int(key.rpartition("/")[2])
        share = shares[draw] if key.startswith("point/1/") else reference
        found["right"] = "1" * round(share * IMAGES) + "0" * (IMAGES - round(share * IMAGES))
    row = made.study.summary[1]
    assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    for name, there in (("drop", row["ideal_accuracy"]), ("float_drop", row["float_accuracy"])):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        # The reference less its drop is an accuracy, and so are the ends of the drop's interval.
        assert -1e-12 <= there - row[f"{name}_high"] <= there - row[f"{name}_low"] <= 1 + 1e-12
    there = made.study.summary[0]["accuracy"]
    assert -1e-12 <= there + row["difference_low"] <= there + row["difference_high"] <= 1 + 1e-12


def test_logit_errors_have_no_interval_below_0() -> None:
    made = made_up({"variation": {"finite_states": {"states": 4}}, "draws": 3})
    for k, error in enumerate((0.01, 0.02, 0.9)):
        made.found[f"point/0/fashion-cnn/{k}"]["logit_error"] = [error, error, error]
    (row,) = made.study.summary
    assert 0 < row["logit_error_low"] < row["logit_error"] < row["logit_error_high"]


def ruined() -> MadeUp:
    """Two sizes; ideal tiles of the second have an ADC that leaves 8 %, and so have crossbars 10 %."""
    made = made_up({"grid": {"tile": [8, 16]}})
    for key, share in {"point/1/fashion-cnn/0": 0.1, "ideal/1/fashion-cnn/0": 0.08}.items():
        made.found[key]["right"] = ("1" * round(share * IMAGES)).ljust(IMAGES, "0")
    return made


def test_accuracy_leads_and_a_ruined_design_is_not_praised() -> None:
    """By loss from ideal tiles alone the ruined point, -2 points, was the best one."""
    study = ruined().study
    assert study.summary[1]["drop"] < 0 < study.summary[0]["drop"]
    told = write_notes(study)
    best, worst = (next(line for line in told if line.startswith(what)) for what in ("Most", "Least"))
    assert "(tile 8)" in best
    assert "(tile 16)" in worst
    assert worst.startswith("Least accurate: 10.00 (")
    assert f"{100 * study.summary[1]['float_drop']:.1f} points below float" in worst
    assert "-2.0 points below ideal tiles" in worst
    (warning,) = [line for line in told if line.startswith("Warning")]
    assert "in 1 of 2 points even ideal tiles are near chance (10.00 %; ! in the tables)" in warning
    assert "tile 16 (8.00 %)" in warning
    header, rows = tabulate_summary(study)["Summary"]
    assert [row[header.index("ideal, %")] for row in rows][1] == "8.00 !"


def test_each_curve_has_the_ideal_tiles_that_are_its_own() -> None:
    """The line of ideal tiles was that of the first curve alone: crossbars at 57 % lay above an "ideal" of 8 %."""
    made = made_up({"grid": {"tile": [8, 16, 32], "architecture.adc_bits": [4, 10]}})
    shares = {4: (0.08, 0.09, 0.1), 10: (0.78, 0.77, 0.79)}
    for k, row in enumerate(made.study.summary):
        share = shares[row["architecture.adc_bits"]][k // 2]
        made.found[f"ideal/{k}/fashion-cnn/0"]["right"] = ("1" * round(share * IMAGES)).ljust(IMAGES, "0")
    ax = dict(draw_pictures(made.study.summary))["accuracy-tile"]
    lines = [line for line in ax.get_lines() if len(line.get_xdata())]
    curves = {line.get_color(): line.get_label() for line in lines if line.get_linestyle() == "-"}
    assert sorted(curves.values()) == ["10", "4"]
    dotted = {curves[line.get_color()]: list(line.get_ydata()) for line in lines if line.get_linestyle() == ":"}
    assert {name: dotted[name] for name in ("4", "10")} == {
        str(bits): pytest.approx([100 * share for share in own]) for bits, own in shares.items()
    }
    (legend,) = ax.figure.legends
    assert "dotted: ideal tiles of each" in [text.get_text() for text in legend.get_texts()]


def test_curves_with_the_same_ideal_tiles_share_one_line() -> None:
    made = made_up({"grid": {"tile": [8, 16], "window.on_off": [2, 6]}})
    for k in range(4):
        made.found[f"ideal/{k}/fashion-cnn/0"]["right"] = made.found["ideal/0/fashion-cnn/0"]["right"]
    ax = dict(draw_pictures(made.study.summary))["accuracy-tile"]
    assert [line.get_label() for line in ax.get_lines() if line.get_linestyle() == ":"] == ["ideal tiles"]


def test_sound_ideal_tiles_are_not_warned_of() -> None:
    assert not [line for line in write_notes(made_up({"grid": {"tile": [8, 16]}}).study) if line.startswith("Warning")]


def test_clipped_conversions_unused_codes_and_overflows_are_columns() -> None:
    made = made_up({"grid": {"tile": [8, 16]}, "network": NETWORKS})
    assert not {"ADC clips, %", "overflows, %"} & set(tabulate_summary(made.study)["Summary"][0])
    for k in (0, 1):
        for n, name in enumerate(NETWORKS):
            made.found[f"point/{k}/{name}/0"] |= {
                "adc_clipped": 0.01 * (k + n),
                "adc_codes_used": 0.5,
                "overflowed": None,
            }
    study = made.study
    assert [row["adc_clipped"] for row in study.rows] == pytest.approx([0.0, 0.01, 0.02, 0.01, 0.02, 0.03])
    assert [row["adc_clipped"] for row in study.summary] == pytest.approx([0.01, 0.02])
    assert [row["adc_codes_used"] for row in study.summary] == [0.5, 0.5]
    header, rows = tabulate_summary(study)["Summary"]
    assert [row[header.index("ADC clips, %")] for row in rows] == ["1.00", "2.00"]
    assert "overflows, %" not in header
    assert any("shares of ADC conversions that clip" in note for note in write_notes(study))


def test_one_run_has_the_intervals_of_its_images() -> None:
    made = made_up({"grid": {"mitigation": ["none", "gain"]}, "baseline": {"mitigation": "none"}})
    for k, row in enumerate(made.study.summary):
        right = made.right(f"point/{k}/fashion-cnn/0")
        ends = stats.binomtest(int(right.sum()), IMAGES).proportion_ci(method="wilson")
        assert row["interval"] == "images"
        assert (row["low"], row["high"]) == pytest.approx((ends.low, ends.high), abs=1e-6)
        assert row["drop_low"] < row["drop"] < row["drop_high"]
    row = made.study.summary[1]
    apart = made.right("point/1/fashion-cnn/0") - made.right("point/0/fashion-cnn/0")
    spread = 1.96 * apart.std() / np.sqrt(IMAGES)
    ends = (apart.mean() - spread, apart.mean() + spread)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(ends, abs=0.02)


@pytest.mark.parametrize("fewer", [0, 1])
def test_fewer_images_are_compared_on_those_of_both(fewer: int) -> None:
    made = made_up({"grid": {"mitigation": ["none", "gain"]}, "baseline": {"mitigation": "none"}})
    for kind in ("point", "ideal", "float"):
        found = made.found[f"{kind}/{fewer}/fashion-cnn/0"]
        found["right"] = found["right"][:50]
    apart = made.right("point/1/fashion-cnn/0")[:50] - made.right("point/0/fashion-cnn/0")[:50]
    assert made.study.summary[1]["difference"] == pytest.approx(apart.mean())


def test_what_failed_is_left_out_of_means_and_told() -> None:
    made = made_up({"network": NETWORKS, "grid": AXES})
    del made.found["point/1/net-0/0"], made.found["ideal/2/net-1/0"]
    made.errors["point/1/net-0/0"] = "it broke"
    study = made.study
    (failed,) = study.failed
    assert (failed["training"], failed["error"], failed["accuracy"]) == ("net-0", "it broke", None)
    shares = [made.right(f"point/1/{name}/0").mean() for name in NETWORKS[1:]]
    assert (study.summary[1]["failed"], study.summary[1]["accuracy"]) == (1, pytest.approx(np.mean(shares)))
    row = next(row for row in study.rows if row["training"] == "net-1" and row["tile"] == "32x8")
    assert row["drop"] is None
    assert row["accuracy"] is not None
    assert any("1 of 12 runs have no result" in note and "it broke" in note for note in write_notes(study))
    for name in NETWORKS[1:]:
        del made.found[f"point/1/{name}/0"]
    assert made.study.summary[1]["accuracy"] is None
    assert made.study.rows[4]["error"] == "its result is missing"


def test_points_are_found_by_their_values() -> None:
    study = made_up({"grid": {"tile": [8, 16], "window.on_off": [2, 6]}}).study
    assert study.point(tile=16, window__on_off=2) is study.summary[2]
    with pytest.raises(
        InputError, match=r"they must select one point, and select 2: give more of the axes tile, window.on_off"
    ):
        study.point(tile=16)


def test_without_pyarrow_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    study = made_up({"grid": AXES}).study
    with pytest.raises(MissingDependencyError):
        to_parquet(study.rows)
    (missing,) = write_study(study, tmp_path)
    assert missing.startswith("no Parquet: pyarrow not found")
    assert "pip install 'geniex-crossbar[parquet]'" in missing
    assert not (tmp_path / "table.parquet").exists()
    assert missing in (tmp_path / "report.md").read_text()


def test_without_matplotlib_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert any("no figures" in line for line in write_study(made_up({"grid": AXES}).study, tmp_path))
    assert "Summary" in (tmp_path / "report.html").read_text()


def test_the_folder_has_tables_a_page_and_figures(tmp_path: Path) -> None:
    given = {"title": "A <study>", "about": "Why.", "grid": AXES, "baseline": {"mitigation": "none"}}
    study = made_up(given).study
    assert not [line for line in write_study(study, tmp_path) if "pyarrow" not in line]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"table.csv", "summary.csv", "report.html", "report.md", "report.json"} <= names
    assert {"accuracy-tile.png", "pareto-arrays.png", "pareto-reads.png", "pareto-static-energy.png"} <= {
        name.replace("_", "-") for name in names
    }
    assert "pareto-adc_conversions.png" not in names  # all points have as many
    page = (tmp_path / "report.html").read_text()
    assert "A &lt;study&gt;" in page
    assert page.count("data:image/png;base64,") == len([name for name in names if name.endswith(".png")])
    for text in (page, (tmp_path / "report.md").read_text()):
        assert "Why." in text
        assert "32x8" in text
        assert "Most accurate: " in text
        assert "points below float" in text
        assert "above baseline" in text
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["rows"] == json.loads(json.dumps(list(study.rows)))
    assert kept["configuration"]["points"][1]["settings"]["mitigation"] == ["gain"]


def test_columns_without_any_value_are_left_out() -> None:
    made = made_up({"grid": {"tile": [8, 16]}})
    figures = ("arrays", "reads", "conversions", "energy, uJ", "s")
    shares = ("accuracy, %", "ideal, %", "below float", "below ideal")
    wanted = ("tile", *shares, "logit error, %", *figures)
    assert tabulate_summary(made.study)["Summary"][0] == wanted
    for found in made.found.values():
        found["static_energy"] = None
    header, rows = tabulate_summary(made.study)["Summary"]
    assert header == tuple(name for name in wanted if name != "energy, uJ")
    assert all(len(row) == len(header) for row in rows)


def test_each_part_has_a_table_of_its_own_axes(tmp_path: Path) -> None:
    parts = [
        {"name": "sizes", "grid": {"tile": [8, 16]}},
        {"name": "bits", "grid": {"architecture.weight_bits": [4, 8]}},
    ]
    study = made_up({"parts": parts}).study
    tables = tabulate_summary(study)
    assert list(tables) == ["sizes", "bits"]
    assert tables["sizes"][0][:2] == ("tile", "accuracy, %")
    assert tables["bits"][0][:2] == ("weight bits", "accuracy, %")
    assert [row["part"] for row in study.rows] == ["sizes", "sizes", "bits", "bits"]
    pictures = {path.stem for path in save_pictures(study, tmp_path)}
    assert {"accuracy-sizes-tile", "accuracy-bits-architecture-weight-bits"} <= pictures


def test_a_study_where_all_failed_has_tables_and_no_figures(tmp_path: Path) -> None:
    made = made_up({"grid": AXES})
    made.found.clear()
    assert not [line for line in write_study(made.study, tmp_path) if "pyarrow" not in line]
    assert not list(tmp_path.glob("*.png"))
    assert "its result is missing" in (tmp_path / "report.html").read_text()
