"""The tables of remapping studies against hand-made answers and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
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
    expected = stats.t.interval(0.95, 2, np.mean(accuracies), stats.sem(accuracies))
    assert (srs.accuracy_low, srs.accuracy_high) == pytest.approx(expected)
    assert srs.drop == pytest.approx(np.mean([0.10, 0.08, 0.01]))
    shares = [10 / 20, 2 / 10, 9 / 10]
    assert srs.recovered == pytest.approx(np.mean(shares))
    expected = stats.t.interval(0.95, 2, np.mean(shares), stats.sem(shares))
    assert (srs.recovered_low, srs.recovered_high) == pytest.approx(expected)
    assert srs.images_low < np.sum([10, 2, 9]) / np.sum([20, 10, 10]) < srs.images_high


def test_rows_on_fewer_images_are_compared_on_those() -> None:
    row = summarised(RIGHT, CELLS)[-1]
    assert row.images == 50
    # Of the first 50 images, all are right by "ideal" and by "none": nothing was lost that could be back.
    assert row.drop == pytest.approx((10 + 0 + 5) / 150)
    assert row.recovered is None


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
    values = torch.tensor([0.10, 0.02, 0.09])
    assert (found.networks_low, found.networks_high) == pytest.approx(mean_interval(values), abs=1e-6)


def test_every_pair_is_told_once() -> None:
    pairs = [(d.method, d.other) for d in differences(RIGHT, ["none", "srs", "ideal"])]
    assert pairs == [("srs", "none"), ("ideal", "none"), ("ideal", "srs")]


def test_bootstrap_of_a_mean_is_scipys() -> None:
    values = torch.rand(400, generator=torch.Generator().manual_seed(0))
    expected = stats.bootstrap((values.numpy(),), np.mean, n_resamples=4000, method="percentile", rng=0)
    low, high = bootstrap_mean(values)
    assert low == pytest.approx(float(expected.confidence_interval.low), abs=4e-3)
    assert high == pytest.approx(float(expected.confidence_interval.high), abs=4e-3)
