"""What calibration keeps of the inputs it sees, and the scales chosen from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geniex.emulator import IdealEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.simulator import CrossbarMatrix, InputStatistics


def test_ranges_cover_everything_and_samples_are_uniform_and_bounded() -> None:
    vectors = torch.arange(2000.0)[:, None] + torch.tensor([0.0, 0.25])
    statistics = InputStatistics(max_vectors=100, max_values=500)
    for batch in vectors.split(300):
        statistics.add(batch)
    assert (statistics.count, statistics.low, statistics.high) == (4000, 0.0, 1999.25)
    assert statistics.non_negative
    assert statistics.vectors.shape == (100, 2)
    assert torch.equal(statistics.vectors[:, 1] - statistics.vectors[:, 0], torch.full((100,), 0.25))
    assert len(statistics.vectors[:, 0].unique()) == 100
    assert statistics.values.shape == (500,)
    # The mean of 500 of 0 .. 2000, all equally likely, within four standard errors.
    assert abs(float(statistics.values.mean()) - 1000) < 4 * 577 / 500**0.5
    again = InputStatistics(max_vectors=100, max_values=500)
    for batch in vectors.split(300):
        again.add(batch)
    assert torch.equal(again.vectors, statistics.vectors)
    assert torch.equal(again.values, statistics.values)


def test_few_inputs_are_all_kept() -> None:
    statistics = InputStatistics()
    assert (statistics.count, statistics.largest, statistics.non_negative) == (0, 0.0, False)
    for vector in torch.tensor([[1.0, -3.0], [2.0, 0.5]]):
        statistics.add(vector[None])
    assert sorted(statistics.values.tolist()) == [-3.0, 0.5, 1.0, 2.0]
    assert sorted(statistics.vectors.tolist()) == [[1.0, -3.0], [2.0, 0.5]]
    assert (statistics.largest, statistics.non_negative) == (3.0, False)


def test_useless_vectors_are_named() -> None:
    statistics = InputStatistics()
    statistics.add(torch.zeros(0, 3))
    assert statistics.count == 0
    statistics.add(torch.ones(1, 3))
    for bad, message in (
        (torch.ones(3), r"count, inputs"),
        (torch.ones(2, 4), r"3 inputs"),
        (torch.tensor([[1.0, 2.0, torch.nan]]), r"calibration: .*finite"),
        (torch.tensor([[1.0, 2.0, torch.inf]]), r"calibration: .*finite"),
        (torch.ones(1, 3, device="meta"), r"values"),
    ):
        with pytest.raises(InputError, match=message):
            statistics.add(bad)
    assert statistics.count == 3


def heavy_tailed() -> InputStatistics:
    statistics = InputStatistics()
    statistics.add(torch.randn(400, 50, generator=torch.Generator().manual_seed(0)).double() ** 3)
    return statistics


def quantised(statistics: InputStatistics, arch: Architecture) -> tuple[CrossbarMatrix, float]:
    """A matrix that passes its input on, and its squared error on the values seen."""
    matrix = CrossbarMatrix(torch.ones(1, 1).double(), arch, IdealEmulator(), inputs=statistics)
    x = statistics.values[:, None]
    return matrix, float((matrix(x) - x).square().mean())


UNITY = Architecture(tile=(4, 8), weight_frac_bits=0, input_bits=6, adc_bits=None, accumulator_bits=None)


def test_percentile_is_numpys() -> None:
    statistics = heavy_tailed()
    arch = UNITY.replace(input_scale="tensor", input_calibration="percentile", input_percentile=97.0)
    matrix, _ = quantised(statistics, arch)
    expected = np.quantile(statistics.values.abs().numpy(), 0.97)
    step = float(matrix.input_gain) * 2.0**-matrix.input_frac_bits
    assert step * 31 == pytest.approx(expected, rel=1e-6)
    default = quantised(statistics, arch.replace(input_percentile=None))[0]
    assert float(default.input_gain) * 2.0**-default.input_frac_bits * 31 == pytest.approx(
        np.quantile(statistics.values.abs().numpy(), 0.999), rel=1e-6
    )


def test_least_squared_error_is_least() -> None:
    """Against the error of a grid of ranges, quantised in NumPy."""
    statistics = heavy_tailed()
    values = statistics.values.numpy()
    errors = []
    for largest in np.geomspace(0.02, 1, 60) * np.abs(values).max():
        step = largest / 31
        errors.append(np.mean((np.clip(np.round(values / step), -31, 31) * step - values) ** 2))
    _, error = quantised(statistics, UNITY.replace(input_scale="tensor", input_calibration="mse"))
    assert error <= 1.02 * min(errors)
    assert error < 0.7 * quantised(statistics, UNITY.replace(input_scale="tensor"))[1]
    powers = [quantised(statistics, UNITY.replace(input_frac_bits=f))[1] for f in range(-8, 8)]
    matrix, error = quantised(statistics, UNITY.replace(input_calibration="mse"))
    assert error == min(powers)
    assert matrix.input_gain is None


def test_a_gain_takes_the_largest_number_to_the_largest_integer() -> None:
    statistics = InputStatistics()
    statistics.add(torch.tensor([[-0.7, 0.1, 0.3]]).double())
    weight = torch.tensor([[0.9, -0.2, 0.0], [0.01, 0.003, 0.002], [0.0, 0.0, 0.0]]).double()
    arch = UNITY.replace(weight_bits=6, weight_frac_bits=None, weight_scale="channel", input_scale="tensor")
    matrix = CrossbarMatrix(weight, arch, IdealEmulator(), inputs=statistics)
    largest = torch.tensor([0.9, 0.01, 1.0]).double() / 31
    assert torch.allclose(matrix.weight_gain[:2] * 2.0**-matrix.weight_frac_bits, largest[:2].float())
    assert matrix.weight_gain[2] == 1
    levels = matrix.layout.slices_of(matrix.conductances[0, 0, 0].sub(arch.window.g_off) / arch.window.step(16))
    assert levels[0, 0].round().tolist() == [1, 15]
    x = torch.tensor([[0.0, 0.0, 0.7]]).double()
    assert matrix(x).tolist()[0] == pytest.approx([0, 6 * float(largest[1]) * 0.7, 0], rel=1e-6)
    unsigned = CrossbarMatrix(weight, arch.replace(input_scheme="unsigned"), IdealEmulator(), inputs=statistics)
    assert float(unsigned.input_gain) * 2.0**-unsigned.input_frac_bits == pytest.approx(0.3 / 63, rel=1e-6)
