"""The tables of remapping studies against hand-made answers and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit
from torch import Tensor

from geniex.study.remap_table import differences, summarised
from geniex.study.statistics import bootstrap_mean, mean_interval


def right(count: int, images: int = 100) -> Tensor:
    """The first ``count`` images rightly classified."""
    return torch.arange(images) < count


RIGHT = {
    "a": {"float": right(95), "ideal": right(90), "none": right(70), "srs": right(80), "srs + gain": right(40, 50)},
    "b": {"float": right(93), "ideal": right(92), "none": right(82), "srs": right(84), "srs + gain": right(50, 50)},
    "c": {"float": right(91), "ideal": right(88), "none": right(78), "srs": right(87), "srs + gain": right(45, 50)},
}
CELLS = [("none", None), ("srs", None), ("srs", "gain")]


def test_means_and_intervals_are_over_networks() -> None:
    rows = {(row.method, row.control): row for row in summarised(RIGHT, CELLS)}
    assert list(rows) == [("float", None), ("ideal", None), *CELLS]
    srs = rows["srs", None]
    assert (srs.networks, srs.images) == (3, 100)
    accuracies = [0.80, 0.84, 0.87]
    assert srs.accuracy == pytest.approx(np.mean(accuracies))
    share = np.mean(accuracies)
    expected = expit(stats.t.interval(0.95, 2, logit(share), stats.sem(accuracies) / (share * (1 - share))))
    assert (srs.accuracy_low, srs.accuracy_high) == pytest.approx(expected)
    assert srs.drop == pytest.approx(np.mean([0.10, 0.08, 0.01]))
    back, lost = np.array([0.10, 0.02, 0.09]), np.array([0.20, 0.10, 0.10])
    ratio = back.sum() / lost.sum()
    assert srs.recovered == pytest.approx(ratio)
    # The ratio's scatter is that of what a network has back beyond its part.
    expected = stats.t.interval(0.95, 2, ratio, stats.sem(back - ratio * lost) / lost.mean())
    assert (srs.recovered_low, srs.recovered_high) == pytest.approx(expected)
    assert srs.images_low < ratio < srs.images_high


def test_rows_on_fewer_images_are_compared_on_those() -> None:
    row = summarised(RIGHT, CELLS)[-1]
    assert row.images == 50
    # Of the first 50 images, all are right by "ideal" and by "none": nothing was lost that could be back.
    assert row.drop == pytest.approx((10 + 0 + 5) / 150)
    assert row.recovered is None


@given(st.data())
def test_every_share_lies_in_its_own_intervals(data: st.DataObject) -> None:
    """A mean of ratios lay outside the interval of the ratio of means: 6 %, where images gave 11 to 20."""
    count = st.integers(0, 40)
    networks = {
        name: {row: right(data.draw(count), 40) for row in ("float", "none", "srs")} | {"ideal": right(40, 40)}
        for name in data.draw(st.sampled_from(["a", "ab", "abc"]))
    }
    row = summarised(networks, [("none", None), ("srs", None)])[-1]
    if row.accuracy_low is not None:
        assert 0 <= row.accuracy_low <= row.accuracy <= row.accuracy_high <= 1
    for low, high in ((row.images_low, row.images_high), (row.recovered_low, row.recovered_high)):
        if low is not None:
            assert low <= row.recovered <= high


def test_float_ideal_and_none_recover_nothing() -> None:
    for row in summarised(RIGHT, CELLS)[:3]:
        assert row.recovered is None
    assert summarised(RIGHT, CELLS)[2].drop == pytest.approx(np.mean([0.2, 0.1, 0.1]))


def test_one_network_has_no_interval_over_networks() -> None:
    row = summarised({"a": RIGHT["a"]}, CELLS)[3]
    assert row.recovered == 0.5
    assert (row.recovered_low, row.recovered_high, row.accuracy_low) == (None, None, None)
    assert row.images_low is not None


def test_differences_are_paired_by_image() -> None:
    (found,) = differences(RIGHT, ["none", "srs"])
    assert (found.method, found.other) == ("srs", "none")
    assert found.mean == pytest.approx(np.mean([0.10, 0.02, 0.09]))
    # 21 of 300 images differ, all one way: the interval is that of a share of 7 %, not of two shares of 80 %.
    assert (found.low, found.high) == pytest.approx((0.0433, 0.1), abs=0.01)
    values, before = torch.tensor([0.10, 0.02, 0.09]), (0.70 + 0.82 + 0.78) / 3
    ends = mean_interval(values)
    expected = max(-before, ends[0]), min(1 - before, ends[1])
    assert (found.networks_low, found.networks_high) == pytest.approx(expected, abs=1e-6)


def test_no_difference_over_networks_leaves_what_accuracies_can_make() -> None:
    networks = {name: {"none": right(count), "srs": right(100)} for name, count in (("a", 2), ("b", 90), ("c", 95))}
    (found,) = differences(networks, ["none", "srs"])
    before = (2 + 90 + 95) / 300
    assert found.networks_low == pytest.approx(-before)
    assert found.mean <= found.networks_high == pytest.approx(1 - before)


def test_every_pair_is_told_once() -> None:
    pairs = [(d.method, d.other) for d in differences(RIGHT, ["none", "srs", "ideal"])]
    assert pairs == [("srs", "none"), ("ideal", "none"), ("ideal", "srs")]


def test_bootstrap_of_a_mean_is_scipys() -> None:
    values = torch.rand(400, generator=torch.Generator().manual_seed(0))
    expected = stats.bootstrap((values.numpy(),), np.mean, n_resamples=4000, method="percentile", rng=0)
    low, high = bootstrap_mean(values)
    assert low == pytest.approx(float(expected.confidence_interval.low), abs=4e-3)
    assert high == pytest.approx(float(expected.confidence_interval.high), abs=4e-3)
