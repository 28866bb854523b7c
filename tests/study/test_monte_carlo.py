"""Monte Carlo over devices: the same table for any number of workers, resumed or not; intervals as scipy's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit
from torch import Tensor, nn

from geniex.circuit import Crossbar, shared_matmul
from geniex.emulator import Emulator, LinearEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.simulator import convert, vary
from geniex.study.monte_carlo import Accuracy, monte_carlo
from geniex.study.statistics import mean_interval, student_quantile
from geniex.variation import ConductanceSpread, NoisyEmulator, ReadNoise, StuckCells, Variations, derive_seed

VARIATIONS = Variations((ConductanceSpread(0.3), StuckCells(0.02, 0.05)), ReadNoise(relative=0.1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    arch = Architecture(tile=(8, 8), weight_bits=8, input_bits=8, input_frac_bits=7)
    return convert(network, arch, LinearEmulator(Crossbar(8, 8)))


@pytest.fixture(scope="module")
def accuracy(model: nn.Module) -> Accuracy:
    """Labels are the unvaried model's own, so that its accuracy is 1."""
    images = torch.rand(40, 12, generator=torch.Generator().manual_seed(1))
    return Accuracy.of([(part, model(part).argmax(-1)) for part in images.split(15)], batch=7)


class Figures:
    """Two figures, counting how often it is asked."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    calls = 0

    def __call__(self, model: nn.Module) -> dict[str, float]:
        Figures.calls += 1
        return {"sum": float(model(self.x).sum()), "random": float(torch.rand(()))}


class Gained(Emulator):
    """A user's emulator with a plain number that its settings do not tell."""

    name = "gained"

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def program(self, conductances: Tensor) -> Tensor:
        return conductances

    def read(self, array: Tensor, voltages: Tensor) -> Tensor:
        return shared_matmul(voltages, array) * self.gain


@pytest.mark.parametrize("noise", [False, True])
def test_kept_runs_of_a_users_emulator_are_those_of_its_own_currents(noise: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(12, 4)).eval(), torch.rand(5, 12)
    arch = Architecture(tile=(8, 8), weight_bits=8, input_bits=8, input_frac_bits=7)
    for gain in (1.0, -1.0):
        emulator = NoisyEmulator(Gained(gain), ReadNoise(relative=0.01)) if noise else Gained(gain)
        model = convert(network, arch, emulator)
        kept = monte_carlo(model, VARIATIONS, Figures(x), runs=2, work=str(tmp_path))
        assert kept == monte_carlo(model, VARIATIONS, Figures(x), runs=2)
        calls = Figures.calls
        assert kept == monte_carlo(model, VARIATIONS, Figures(x), runs=2, work=tmp_path)
        assert Figures.calls == calls


@pytest.mark.slow
def test_the_table_is_the_same_for_one_and_two_workers(model: nn.Module, accuracy: Accuracy) -> None:
    seen: list[tuple[int, int]] = []
    one = monte_carlo(model, VARIATIONS, accuracy, runs=5, seed=2, progress=lambda *at: seen.append(at))
    two = monte_carlo(model, VARIATIONS, accuracy, runs=5, seed=2, workers=2)
    assert one == two
    assert seen == [(k, 6) for k in range(7)]
    assert len({run["value"] for run in one.runs}) > 1
    assert one != monte_carlo(model, VARIATIONS, accuracy, runs=5, seed=3)


def test_rows_are_the_runs_statistics(model: nn.Module, accuracy: Accuracy) -> None:
    result = monte_carlo(model, VARIATIONS, accuracy, runs=5, seed=2)
    (images,) = next(iter(accuracy.images)).args
    by_hand = [
        float((vary(model, VARIATIONS, derive_seed(2, "run", str(run)))(images).argmax(-1) == accuracy.labels)
        .double().mean()) for run in range(5)
    ]  # fmt: skip
    row = result.row()
    # In other batches read noise falls otherwise, which moves an image or two.
    assert [run["value"] for run in result.runs] == pytest.approx(by_hand, abs=0.1)
    values = torch.tensor([run["value"] for run in result.runs], dtype=torch.float64)
    mean, scatter = float(values.mean()), stats.sem(values)
    expected = expit(stats.t.interval(0.95, 4, logit(mean), scatter / (mean * (1 - mean))))
    assert (row.low, row.high) == pytest.approx(tuple(expected), rel=1e-9)
    # A figure of any other metric may have any value.
    free = monte_carlo(model, VARIATIONS, accuracy.__call__, runs=5, seed=2).row()
    expected = stats.ttest_1samp(values.numpy(), 0).confidence_interval(0.95)
    assert (free.low, free.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert row.nominal == 1.0
    assert (row.mean, row.std) == pytest.approx((float(values.mean()), float(values.std())))
    assert (row.least, row.most) == (values.min(), values.max())
    assert json.loads(json.dumps(result.to_dict()))["rows"][0]["name"] == "value"


def test_more_runs_leave_the_first_ones_and_those_kept_are_not_done_again(model: nn.Module, tmp_path: Path) -> None:
    metric, options = Figures(torch.rand(3, 12)), {"seed": 4, "work": tmp_path}
    three = monte_carlo(model, VARIATIONS, metric, runs=3, **options)  # type: ignore[arg-type]
    Figures.calls = 0
    again = monte_carlo(model, VARIATIONS, metric, runs=3, **options)  # type: ignore[arg-type]
    assert (again, Figures.calls) == (three, 0)
    five = monte_carlo(model, VARIATIONS, metric, runs=5, **options)  # type: ignore[arg-type]
    assert Figures.calls == 2
    assert five.runs[:3] == three.runs
    assert five == monte_carlo(model, VARIATIONS, metric, runs=5, seed=4)
    assert len({run["random"] for run in five.runs}) == 5
    # Another metric, another seed, other variations: other files.
    monte_carlo(model, VARIATIONS, Figures(torch.rand(3, 12)), runs=1, **options)  # type: ignore[arg-type]
    monte_carlo(model, VARIATIONS, metric, runs=1, seed=5, work=tmp_path)
    monte_carlo(model, Variations(), metric, runs=1, **options)  # type: ignore[arg-type]
    # Six files of the first study, and two for each of the others.
    assert len(list(tmp_path.iterdir())) == 12


def test_a_torn_file_is_as_good_as_none(model: nn.Module, accuracy: Accuracy, tmp_path: Path) -> None:
    first = monte_carlo(model, VARIATIONS, accuracy, runs=2, work=tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:20])
    assert monte_carlo(model, VARIATIONS, accuracy, runs=2, work=tmp_path) == first


def test_the_random_state_of_the_caller_is_left_alone(model: nn.Module, accuracy: Accuracy) -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    monte_carlo(model, VARIATIONS, accuracy, runs=1)
    assert torch.equal(torch.rand(3), expected)


def test_bad_input_is_named(model: nn.Module, accuracy: Accuracy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="runs"):
        monte_carlo(model, VARIATIONS, accuracy, runs=0)
    with pytest.raises(InputError, match="workers"):
        monte_carlo(model, VARIATIONS, accuracy, workers=0)
    with pytest.raises(InputError, match=r"workers: got 2; the work cannot be sent to another process .*lambda"):
        monte_carlo(model, VARIATIONS, lambda m: 0.0, workers=2)
    with pytest.raises(InputError, match="executor"):
        monte_carlo(model, VARIATIONS, accuracy, executor="slurm")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="metric"):
        monte_carlo(model, VARIATIONS, lambda m: 0.0, work=tmp_path)
    with pytest.raises(InputError, match="loader"):
        Accuracy.of([])
    with pytest.raises(InputError, match="name"):
        monte_carlo(model, VARIATIONS, accuracy, runs=1).row("loss")


def test_accuracy_of_a_model_of_several_inputs(accuracy: Accuracy) -> None:
    """Labels that are right for three of four, in batches that are smaller than the loader's."""
    x, y = torch.rand(4, 5), torch.rand(4, 5)
    bilinear = torch.nn.Bilinear(5, 5, 3)
    labels = bilinear(x, y).argmax(-1)
    labels[2] = (labels[2] + 1) % 3
    for data in (x, y, labels), [((x, y), labels)], {"input1": x, "input2": y, "labels": labels}:
        assert Accuracy.of(data, batch=3, model=bilinear)(bilinear) == 0.75
    with pytest.raises(InputError, match="images: got 4 images and labels"):
        Accuracy(x, labels[:3])


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 29, 500])
def test_student_quantiles_are_scipys(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    assert student_quantile(freedom, 0.5) == pytest.approx(stats.t.ppf(0.75, freedom), rel=1e-9)


def test_one_value_may_have_any_mean_that_is_allowed() -> None:
    assert mean_interval(torch.tensor([3.0])) == (-math.inf, math.inf)
    assert mean_interval(torch.tensor([0.3]), 0.0, 1.0) == (0.0, 1.0)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, math.inf), (-0.2, 1.5)]),
)
def test_intervals_hold_the_mean_and_stay_within_bounds(values: list[float], bounds: tuple[float, float]) -> None:
    samples = torch.tensor(values, dtype=torch.float64)
    low, high = mean_interval(samples, *bounds)
    assert bounds[0] <= low <= samples.mean() <= high <= bounds[1]


def test_little_scatter_has_the_plain_interval_on_every_scale() -> None:
    samples = torch.tensor([0.7001, 0.7002, 0.6999], dtype=torch.float64)
    plain = mean_interval(samples)
    for bounds in ((0.0, 1.0), (0.0, math.inf), (-1.0, 1.0)):
        assert mean_interval(samples, *bounds) == pytest.approx(plain, rel=1e-6)
