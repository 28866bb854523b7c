"""Recovered shares and differences of studies, from results made up by hand: against SciPy and plain arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up_study import NETWORKS, MadeUp, made_up
from scipy import stats
from torch import Tensor

from geniex.errors import InputError
from geniex.study.grid import StudySpec
from geniex.study.grid.comparisons import Change, compare_pairs, make_recovered_columns, name_recovered_columns
from geniex.study.grid.pictures import draw_pictures
from geniex.study.grid.report import tabulate_summary, write_notes
from geniex.study.grid.table import Row
from geniex.study.statistics import bootstrap_mean, mean_interval


def right(count: int, images: int = 100) -> Tensor:
    """The first ``count`` images are classified correctly."""
    return (torch.arange(images) < count).double()


CHANGES = {
    ("a", 0): Change(right(80), right(70), right(90)),
    ("b", 0): Change(right(84), right(82), right(92)),
    ("c", 0): Change(right(87), right(78), right(88)),
}


def test_the_share_and_its_interval_are_of_a_ratio_of_means() -> None:
    found = make_recovered_columns("recovered", CHANGES)
    assert list(found) == name_recovered_columns("recovered")
    back, lost = np.array([0.10, 0.02, 0.09]), np.array([0.20, 0.10, 0.10])
    ratio = back.sum() / lost.sum()
    assert found["recovered"] == pytest.approx(ratio)
    # The ratio's scatter is that of what a network has back beyond its part.
    expected = stats.t.interval(0.95, 2, ratio, stats.sem(back - ratio * lost) / lost.mean())
    assert (found["recovered_low"], found["recovered_high"]) == pytest.approx(expected)
    assert found["recovered_images_low"] < ratio < found["recovered_images_high"]


def test_one_network_has_the_interval_of_its_images() -> None:
    found = make_recovered_columns("recovered", {("a", 0): CHANGES["a", 0]})
    assert found["recovered"] == pytest.approx(0.5)
    ends = (found["recovered_images_low"], found["recovered_images_high"])
    assert (found["recovered_low"], found["recovered_high"]) == ends
    back, lost = (CHANGES["a", 0].own - CHANGES["a", 0].before), CHANGES["a", 0].reference - CHANGES["a", 0].before
    drawn = stats.bootstrap(
        (back.numpy(), lost.numpy()),
        lambda x, y, axis: x.sum(axis) / y.sum(axis),
        paired=True,
        method="percentile",
        rng=0,
    )
    ratio = drawn.confidence_interval
    assert ends == pytest.approx((ratio.low, ratio.high), abs=0.05)


def test_where_nothing_is_lost_nothing_can_be_recovered() -> None:
    found = make_recovered_columns("recovered", {("a", 0): Change(right(60), right(50), right(50))})
    assert set(found.values()) == {None}
    one_loses_nothing = CHANGES | {("d", 0): Change(right(60), right(50), right(50))}
    found = make_recovered_columns("recovered", one_loses_nothing)
    assert found["recovered"] == pytest.approx((0.10 + 0.02 + 0.09 + 0.10) / 0.40)
    assert (found["recovered_low"], found["recovered_high"]) == (None, None)


@given(st.data())
def test_every_share_lies_in_its_own_intervals(data: st.DataObject) -> None:
    """A mean of ratios lay outside the interval of the ratio of means: 6 %, where images gave 11 to 20."""
    count = st.integers(0, 40)
    changes = {
        (name, 0): Change(right(data.draw(count), 40), right(data.draw(count), 40), right(40, 40))
        for name in data.draw(st.sampled_from(["a", "ab", "abc"]))
    }
    found = make_recovered_columns("x", changes)
    for low, high in (("x_images_low", "x_images_high"), ("x_low", "x_high")):
        if found[low] is not None:
            assert found[low] <= found["x"] <= found[high]


def test_differences_are_paired_by_image() -> None:
    pairs = {key: (change.own, change.before) for key, change in CHANGES.items()}
    found = compare_pairs(pairs)
    assert found["difference"] == pytest.approx(np.mean([0.10, 0.02, 0.09]))
    # 21 of 300 images differ, all one way: the interval is that of a share of 7 %, not of two shares of 80 %.
    assert (found["low"], found["high"]) == pytest.approx((0.0433, 0.1), abs=0.01)
    values, before = torch.tensor([0.10, 0.02, 0.09]), (0.70 + 0.82 + 0.78) / 3
    ends = mean_interval(values)
    expected = max(-before, ends[0]), min(1 - before, ends[1])
    assert (found["networks_low"], found["networks_high"]) == pytest.approx(expected, abs=1e-6)


def test_no_difference_over_networks_leaves_what_accuracies_can_make() -> None:
    pairs = {(name, 0): (right(100), right(count)) for name, count in (("a", 2), ("b", 90), ("c", 95))}
    found, before = compare_pairs(pairs), (2 + 90 + 95) / 300
    assert found["networks_low"] == pytest.approx(-before)
    assert found["difference"] <= found["networks_high"] == pytest.approx(1 - before)


def test_bootstrap_of_a_mean_is_scipys() -> None:
    values = torch.rand(400, generator=torch.Generator().manual_seed(0))
    expected = stats.bootstrap((values.numpy(),), np.mean, n_resamples=4000, method="percentile", rng=0)
    low, high = bootstrap_mean(values)
    assert low == pytest.approx(float(expected.confidence_interval.low), abs=4e-3)
    assert high == pytest.approx(float(expected.confidence_interval.high), abs=4e-3)


def lossy(config: dict[str, Any], **shares: float) -> MadeUp:
    """A made-up study whose points have the accuracies ``shares`` (by point: p0, p1, ...), and ideal tiles 90 %."""
    made = made_up(config)
    for key, found in made.found.items():
        kind, point, *_ = key.split("/")
        share = shares.get(f"p{point}") if kind == "point" else {"ideal": 0.9, "float": 0.95}[kind]
        if share is not None:
            count = len(found["right"])
            found["right"] = ("1" * round(share * count)).ljust(count, "0")
    return made


def test_studies_that_vary_mitigation_say_what_each_recovers() -> None:
    config = {"network": NETWORKS, "grid": {"tile": [16, 32], "mitigation": ["none", "srs", "srs + gain"]}}
    study = lossy(config, p0=0.7, p1=0.8, p2=0.9, p3=0.5, p4=0.6, p5=0.5).study
    assert [row["recovered"] for row in study.summary] == [
        None,
        pytest.approx(0.5),
        pytest.approx(1.0),
        None,
        pytest.approx(0.25),
        pytest.approx(0.0),
    ]
    assert study.summary[1]["float_recovered"] == pytest.approx(0.1 / 0.25)
    assert [row["recovered"] for row in study.rows[3:6]] == [pytest.approx(0.5)] * 3
    header, rows = tabulate_summary(study)["Summary"]
    assert rows[1][header.index("recovered, %")].startswith("50 (")
    assert any(note.startswith("Recovered: the share") for note in write_notes(study))
    assert "recovered" in dict(draw_pictures(study.summary))
    assert "recovered" not in made_up({"grid": {"tile": [16, 32]}}).study.summary[0]


def test_the_unmitigated_crossbar_may_be_in_another_part_on_more_images() -> None:
    parts = [
        {"name": "all", "grid": {"mitigation": ["none"]}},
        {"name": "few", "images": 100, "grid": {"mitigation": ["gain"]}},
        {"name": "other", "tile": 16, "grid": {"mitigation": ["gain"]}},
    ]
    made = made_up({"parts": parts})
    kinds = ("point/0", "point/1", "ideal/1", "float/1")
    before, few, ideal, floating = (made.found[f"{kind}/fashion-cnn/0"] for kind in kinds)
    before["right"], few["right"] = "1" * 60 + "0" * 140, "1" * 80 + "0" * 20
    ideal["right"] = floating["right"] = "1" * 100
    _, after, elsewhere = made.study.summary
    assert after["recovered"] == pytest.approx(20 / 40)
    assert elsewhere["recovered"] is None  # this tile was not run without mitigation


def test_draws_are_compared_with_the_same_draw() -> None:
    devices = {"variation": {"finite_states": {"states": 4}}, "draws": 3}
    made = lossy(devices | {"grid": {"mitigation": ["none", "gain"]}})
    shares = []
    for k, row in enumerate(made.study.rows[3:]):
        before = made.right(f"point/0/fashion-cnn/{k}").mean()
        share = (made.right(f"point/1/fashion-cnn/{k}").mean() - before) / (0.9 - before)
        assert row["recovered"] == pytest.approx(share)
        shares.append(share)
    assert len(set(shares)) == 3


def test_differences_are_of_every_two_points_of_a_part() -> None:
    parts = [
        {"name": "a", "grid": {"tile": [16, 32], "mitigation": ["none", "srs", "gain"]}},
        {"name": "b", "grid": {"mitigation": ["drs", "mdm"]}},
    ]
    made = made_up({"network": NETWORKS, "differences": ["mitigation"], "parts": parts})
    study = made.study

    def told(row: Row) -> tuple[Any, ...]:
        return row["part"], row["tile"], row["mitigation"], row["above"]

    names = [("srs", "none"), ("gain", "none"), ("gain", "srs")]
    assert [told(row) for row in study.differences] == [
        *(("a", tile, one, other) for tile in (16, 32) for one, other in names),
        ("b", "none", "mdm", "drs"),
    ]
    apart = [(made.right(f"point/2/{n}/0") - made.right(f"point/1/{n}/0")).mean() for n in NETWORKS]
    assert study.differences[2]["difference"] == pytest.approx(np.mean(apart))
    assert made_up({"grid": {"tile": [16, 32]}}).study.differences == ()


def test_only_axes_can_be_compared() -> None:
    with pytest.raises(InputError, match=r"differences: got 'seed'; axes are tile"):
        StudySpec.of({"grid": {"tile": [8, 16]}, "differences": ["seed"]})


def test_layers_agree_on_the_order_of_remappings_over_points_alike_in_all_else() -> None:
    made = made_up({"grid": {"tile": [16, 32], "mitigation": ["none", "srs", "drs"]}})
    weighted = {0: (0.1, 0.2), 1: (0.3, 0.4), 2: (0.2, 0.5), 3: (0.3, 0.3), 4: (0.2, 0.2), 5: (0.1, 0.1)}
    for k, (emulator, circuit) in weighted.items():
        told = {"layer": "fc", "positions": 4, "emulator": 0.1, "circuit": 0.1}
        errors = {"emulator_weighted": emulator, "circuit_weighted": circuit}
        made.found[f"point/{k}/fashion-cnn/0"]["layers"] = [told | errors]
    rows = made.study.layers
    first = stats.kendalltau([0.1, 0.3, 0.2], [0.2, 0.4, 0.5]).statistic
    assert [row["order_agreement"] for row in rows] == pytest.approx([first] * 3 + [1.0] * 3)
    assert (rows[1]["mitigation"], rows[1]["tile"], rows[1]["training"]) == ("srs", 16, "fashion-cnn")
    assert any("The lowest agreement is 0.33" in note for note in write_notes(made.study))
