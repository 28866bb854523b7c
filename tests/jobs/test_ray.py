"""Jobs on a Ray cluster on this machine, and that what is built on jobs gives the same there as here."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import job_cases
import pytest
import torch

from geniex.errors import InputError, JobError, MissingDependencyError
from geniex.jobs import Failure, run_jobs


def test_ray_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"ray not found, needed for executor ray: pip install"):
        list(run_jobs(job_cases.square, range(3), executor="ray"))


@pytest.mark.ray
def test_a_cluster_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "nonsense:0:0")
    with pytest.raises(JobError, match=r"no Ray cluster was found: .*set RAY_ADDRESS"):
        list(run_jobs(job_cases.square, range(3), executor="ray"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    paths = {"PYTHONPATH": os.pathsep.join([*map(str, _FOLDERS), os.environ.get("PYTHONPATH", "")])}
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20,
        runtime_env={"env_vars": paths}, log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


_FOLDERS = [Path(__file__).parent, Path(__file__).parent.parent / "study"]
"""Folders of the modules that tasks come from, as a user's own would be."""


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_answers_come_from_workers_that_load_the_task_once() -> None:
    items = [torch.rand(4, 3) for _ in range(6)]
    task = job_cases.Look(job_cases.WorkerGuard(3).to_dict())
    found = list(run_jobs(task, items, executor="ray"))
    assert {id(item) for item, _ in found} == {id(item) for item in items}
    for item, seen in found:
        assert isinstance(seen, job_cases.Seen)
        assert torch.equal(seen.item, item.cumsum(0))
        assert (seen.threads, seen.loads, seen.rings) == (1, 1, 3)
        assert seen.process != os.getpid()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_an_error_of_the_task_is_raised_as_itself() -> None:
    with pytest.raises(InputError) as found:
        list(run_jobs(job_cases.refuse, range(4), executor="ray"))
    assert str(found.value) == "x: got 2; anything but 2"


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_job_whose_workers_die_has_failed_and_the_others_go_on(tmp_path: Path) -> None:
    done = dict(run_jobs(job_cases.Deadly(tmp_path / "flag"), range(5), executor="ray", workers=2))
    failure = done.pop(2)
    assert done == {x: x * x for x in (0, 1, 3, 4)}
    assert isinstance(failure, Failure)
    assert "its Ray worker died 4 times" in failure.reason


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_what_cannot_be_sent_is_told() -> None:
    lock = threading.Lock()
    with pytest.raises(InputError, match=r"executor: got 'ray'; the work cannot be sent to a cluster"):
        list(run_jobs(lambda x: lock, range(3), executor="ray"))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_predictions_and_monte_carlo_are_the_same_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(_FOLDERS[1]))
    import splitting_cases as cases

    from geniex.study.monte_carlo import monte_carlo

    here = cases.timeless(cases.predicted(cases.Shaky()))
    assert cases.timeless(cases.predicted(cases.Shaky(), executor="ray", work=tmp_path)) == here
    assert cases.timeless(cases.predicted(cases.Shaky(), executor="ray", work=tmp_path)) == here
    arguments: tuple[Any, ...] = (cases.converted(), cases.SPREAD, cases.accuracy())
    one = monte_carlo(*arguments, runs=2)
    assert monte_carlo(*arguments, runs=2, executor="ray", workers=5) == one
