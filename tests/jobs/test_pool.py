"""Jobs in this process and in worker processes: what comes back, and what survives the death of a worker."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import job_cases
import pytest
import torch

from geniex.emulator import identity, register_emulator
from geniex.errors import InputError, JobError
from geniex.jobs import Failure, run_jobs, use_job_threads
from geniex.mapping import register_layout
from geniex.mapping.layout import grouped
from geniex.mitigation import REMAPPINGS, Remapping
from geniex.mitigation.remap.sensitivity import MEASURES
from geniex.simulator import register_layer
from geniex.simulator.layers import crossbar
from geniex.study.grid import fields, register_variation

ITEMS = [torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in range(6)]


@pytest.fixture(scope="module")
def here() -> list[job_cases.Seen]:
    return [seen for _, seen in run_jobs(job_cases.Look(job_cases.WorkerGuard(3).to_dict()), ITEMS)]


@pytest.fixture(scope="module")
def there() -> list[job_cases.Seen]:
    """What two workers saw, in the order of the items."""
    torch.set_num_threads(2)
    try:
        pairs = list(run_jobs(job_cases.Look(job_cases.WorkerGuard(3).to_dict()), ITEMS, workers=2))
    finally:
        torch.set_num_threads(1)
    by_item = {id(item): seen for item, seen in pairs}
    assert len(by_item) == len(pairs) == len(ITEMS)
    return [by_item[id(item)] for item in ITEMS]


def test_items_and_answers_cross_whole(here: list[job_cases.Seen], there: list[job_cases.Seen]) -> None:
    for item, one, two in zip(ITEMS, here, there, strict=True):
        assert torch.equal(one.item, item.cumsum(0))
        assert torch.equal(two.item, item.cumsum(0))


def test_workers_compute_on_one_thread(there: list[job_cases.Seen]) -> None:
    assert {seen.threads for seen in there} == {1}


def test_a_worker_loads_the_task_once(there: list[job_cases.Seen]) -> None:
    assert {seen.loads for seen in there} == {1}


def test_workers_know_the_configuration_classes_of_the_user(there: list[job_cases.Seen]) -> None:
    assert {seen.rings for seen in there} == {3}


def test_workers_know_what_else_the_user_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the layer a worker would keep it digital, and give other numbers than this process without a word.
    for module, registry in (
        (crossbar, "_kinds"),
        (identity, "_registered"),
        (grouped, "_layouts"),
        (fields, "STEPS"),
        (fields, "GROUPS"),
    ):
        monkeypatch.setattr(module, registry, dict(getattr(module, registry)))
    register_layer(job_cases.OwnLayer, job_cases.CrossbarOwnLayer)
    register_emulator(job_cases.OwnEmulator)
    register_layout("on_one_tile", tile=job_cases.on_one_tile)
    register_layout("left_out", tile=lambda *_: None)  # type: ignore[arg-type, return-value]
    register_variation("own_variation", job_cases.OwnVariation)
    monkeypatch.setitem(MEASURES, "own_measure", job_cases.own_measure)
    monkeypatch.setitem(REMAPPINGS, "own", Remapping(method="srs", measure="own_measure"))
    expected = (str(job_cases.CrossbarOwnLayer), "OwnEmulator", True, True, True)
    found = [seen for _, seen in run_jobs(job_cases.look_up, ["OwnEmulator"], workers=2)]
    assert found == [expected]


def test_none_and_one_work_in_this_process(here: list[job_cases.Seen], there: list[job_cases.Seen]) -> None:
    alone = [seen for _, seen in run_jobs(job_cases.Look(job_cases.WorkerGuard().to_dict()), ITEMS, workers=1)]
    assert {seen.process for seen in here + alone} == {os.getpid()}
    assert os.getpid() not in {seen.process for seen in there}


def test_one_worker_computes_on_one_thread_here_too() -> None:
    task = job_cases.Look(job_cases.WorkerGuard().to_dict())
    torch.set_num_threads(2)
    try:
        assert [seen.threads for _, seen in run_jobs(task, ITEMS[:1])] == [2]
        assert [seen.threads for _, seen in run_jobs(task, ITEMS[:1], workers=1)] == [1]
        for options, threads in ((None, "local"), 2), ((2, "local"), 1), ((None, "ray"), 1):
            with use_job_threads(*options):  # type: ignore[arg-type]
                assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.slow
def test_a_worker_is_replaced_when_it_is_due() -> None:
    task = job_cases.Look(job_cases.WorkerGuard().to_dict())
    found = [seen.process for _, seen in run_jobs(task, ITEMS[:4], workers=1, recycle=2)]
    assert found[0] == found[1] != found[2] == found[3]
    assert os.getpid() not in found


def test_no_items_are_no_work() -> None:
    for workers in (None, 1, 2):
        assert not list(run_jobs(job_cases.square, [], workers=workers))


@pytest.mark.slow
def test_items_are_taken_as_workers_become_free() -> None:
    """An endless stream of items is no trouble for a caller who stops."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for x in itertools.count():
            taken.append(x)
            yield x

    found = list(itertools.islice(run_jobs(job_cases.square, items(), workers=2), 3))
    assert all(y == x * x for x, y in found)
    assert len(taken) <= 6


@pytest.mark.parametrize("workers", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_of_the_task_is_raised_as_itself(workers: int | None) -> None:
    with pytest.raises(InputError, match=r"x: got 2; anything but 2"):
        list(run_jobs(job_cases.refuse, range(4), workers=workers))


@pytest.mark.slow
def test_a_worker_that_dies_takes_only_its_item_with_it(tmp_path: Path) -> None:
    done = dict(run_jobs(job_cases.Deadly(tmp_path / "flag"), range(6), workers=2))
    failure = done.pop(2)
    assert done == {x: x * x for x in (0, 1, 3, 4, 5)}
    assert isinstance(failure, Failure)
    assert "its worker process died" in failure.reason


@pytest.mark.slow
def test_workers_that_all_die_end_the_run() -> None:
    with pytest.raises(JobError, match="keep dying"):
        list(run_jobs(job_cases.always_die, range(100), workers=1, recycle=1))


def test_what_cannot_be_sent_is_told() -> None:
    with pytest.raises(InputError, match=r"workers: got 2; the work cannot be sent .* leave workers out"):
        list(run_jobs(lambda x: x, range(3), workers=2))
    assert [y for _, y in run_jobs(lambda x: x, range(3), workers=1)] == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, -1, 1.5, "two", True])
def test_workers_must_be_a_count(workers: object) -> None:
    with pytest.raises(InputError, match="workers"):
        run_jobs(job_cases.square, range(3), workers=workers)  # type: ignore[arg-type]


def test_executors_are_listed() -> None:
    with pytest.raises(InputError, match=r"executor: got 'slurm'; it must be one of local, ray"):
        run_jobs(job_cases.square, range(3), executor="slurm")  # type: ignore[arg-type]
