"""Predictions and Monte Carlo split over processes: the same to the bit as in this process, also after kills."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import splitting_cases as cases
import torch
from splitting_cases import Shaky

from geniex.errors import InputError, MissingDependencyError
from geniex.simulator import vary
from geniex.study.accuracy import predict_accuracy
from geniex.study.monte_carlo import monte_carlo
from geniex.variation import ReadNoise


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    return cases.timeless(cases.predicted(Shaky()))


@pytest.mark.slow
def test_a_prediction_is_the_same_for_any_number_of_workers_even_if_one_dies(
    here: dict[str, Any], tmp_path: Path
) -> None:
    assert cases.timeless(cases.predicted(Shaky(), workers=1)) == here
    flag = tmp_path / "died"
    done: dict[str, int] = {}
    two = cases.predicted(Shaky(flag), workers=2, progress=lambda stage, count, total: done.update({stage: count}))
    assert flag.exists()
    assert cases.timeless(two) == here
    assert done == {"float": 60, "fixed point": 60, "ideal": 60, "linear": 60, "circuit": 40}
    assert 0 < here["stages"][-1]["accuracy"] < 1, "neither figure is one that any split would give"


@pytest.mark.slow
def test_a_prediction_that_was_killed_ends_as_one_that_was_not(here: dict[str, Any], tmp_path: Path) -> None:
    script = [sys.executable, str(Path(cases.__file__)), str(tmp_path)]
    killed = subprocess.run(script, start_new_session=True, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*")}
    assert kept
    first: dict[str, int] = {}
    again = cases.predicted(Shaky(), work=tmp_path, progress=lambda stage, done, total: first.setdefault(stage, done))
    assert cases.timeless(again) == here
    assert first["circuit"] >= 16
    assert first["float"] == 60
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "nothing that was finished is run again"


def test_more_images_use_what_fewer_have_found(tmp_path: Path) -> None:
    def run(count: int) -> list[tuple[str, int, int]]:
        seen: list[tuple[str, int, int]] = []
        images, labels = torch.rand(40, 12, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4
        predict_accuracy(
            Shaky(), (images[:count], labels[:count]), crossbar=cases.CROSSBAR, architecture=cases.ARCH,
            circuit_images=0, calibration=images, work=tmp_path, progress=lambda *step: seen.append(step),
        )  # fmt: skip
        return [step for step in seen if step[0] == "linear"]

    assert run(32) == [("linear", 16, 32), ("linear", 32, 32)]
    assert run(40) == [("linear", 32, 40), ("linear", 40, 40)]


def test_a_function_may_not_calibrate_several_processes() -> None:
    images = cases.loader()
    options: dict[str, Any] = {"crossbar": cases.CROSSBAR, "architecture": cases.ARCH, "circuit_images": 0}
    for more in {"workers": 2}, {"executor": "ray"}:
        with pytest.raises(InputError, match=r"calibration: got a function; with several workers .*give batches"):
            predict_accuracy(Shaky(), images, calibration=lambda m: m(images[0][0]), **options, **more)
    for more, told in ({"workers": 0}, "workers: got 0"), ({"executor": "slurm"}, "executor: got 'slurm'"):
        with pytest.raises(InputError, match=told):
            predict_accuracy(Shaky(), images, **options, **more)


def test_ray_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match="ray not found"):
        cases.predicted(Shaky(), executor="ray")


def elsewhere(seen: list[Any]) -> Any:
    """``run_jobs`` as the hardest split has it: every item in a process of its own, the last one first."""

    def run_jobs(task: Any, items: Any, **options: Any) -> Any:
        seen.extend(items)
        for item in reversed(seen):
            yield item, pickle.loads(pickle.dumps(task))(item)

    return run_jobs


def test_monte_carlo_splits_the_images_where_runs_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven workers for two runs, one of them nominal: the ten batches of each go in four parts."""
    model, accuracy = cases.converted(), cases.accuracy()
    one, seen = monte_carlo(model, cases.SPREAD, accuracy, runs=1), list[Any]()
    monkeypatch.setattr("geniex.study.monte_carlo.run_jobs", elsewhere(seen))
    assert monte_carlo(model, cases.SPREAD, accuracy, runs=1, workers=7) == one
    assert len(seen) == 8
    assert accuracy.merged([part(model) for part in accuracy.split()]) == accuracy(model) == one.row().nominal


@pytest.mark.parametrize("where", ["variations", "model"])
def test_noisy_runs_stay_whole(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of a read depends on the reads before it, so that all images of a run are read in order."""
    model, accuracy, variations = cases.converted(), cases.accuracy(), cases.SPREAD
    noisy = variations.replace(read_noise=ReadNoise(relative=0.5))
    if where == "variations":
        variations = noisy
    else:
        model = vary(model, noisy)
    one, seen = monte_carlo(model, variations, accuracy, runs=3), list[Any]()
    monkeypatch.setattr("geniex.study.monte_carlo.run_jobs", elsewhere(seen))
    assert monte_carlo(model, variations, accuracy, runs=3, workers=9) == one
    assert len(seen) == 4


def test_a_figure_that_is_no_number_is_kept_too(tmp_path: Path) -> None:
    model = cases.converted()
    first = monte_carlo(model, cases.SPREAD, infinite, runs=2, work=tmp_path)
    again = monte_carlo(model, cases.SPREAD, infinite, runs=2, work=tmp_path)
    assert again.runs == first.runs == ({"value": float("inf")},) * 2


def infinite(model: torch.nn.Module) -> float:
    return float("inf")
