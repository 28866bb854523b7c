"""One thread where it is asked for, and as many as before afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch

from geniex.study.grid import job
from geniex.sweep import solving
from geniex.threads import one_thread


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_there_is_one_thread_and_then_as_many_as_before() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_leaves_as_many_as_before() -> None:
    with pytest.raises(ValueError, match="inside"), one_thread():
        raise ValueError("inside")
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("module", "inner", "work"),
    [
        (job, "compute", lambda: job.run_job(None)),  # type: ignore[arg-type]
        (solving, "_alone", lambda: solving.solve_tiles(SimpleNamespace(engine="spice"), 0, 1)),  # type: ignore[arg-type]
    ],
)
def test_work_whose_bits_are_kept_is_done_on_one_thread(
    module: ModuleType, inner: str, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def look(*given: object) -> None:
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt  # what neither of them takes for a result

    monkeypatch.setattr(module, inner, look)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [1]
    assert torch.get_num_threads() == 2
