"""Sweeps on a Ray cluster of several nodes on this machine, against the same sweep here."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from geniex.cli.main import main
from geniex.errors import MissingDependencyError, SweepError
from geniex.jobs import Failure
from geniex.sweep import CircuitRanges, SweepConfig, SweepSet, run, run_sweep, run_sweep_set


def test_without_ray(small: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"ray not found, needed for executor ray: pip install"):
        run_sweep(small, tmp_path / "a.h5", executor="ray")
    run_sweep(small, tmp_path / "a.h5", workers=1)  # and it goes on without


def test_ray_is_no_local_executor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("{preset: geniex-16, tiles: 1, vectors: 1}")
    assert main(["sweep", str(tmp_path / "a.yaml"), "--engine", "ray", "--executor", "local"]) == 2
    assert "engine: got ray; ray is an executor" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two nodes of one processor each, without a dashboard; gone when the tests of this file are done."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    try:
        nodes.add_node(**small)
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_cluster_gives_the_same_files(small: SweepConfig, tmp_path: Path, content) -> None:
    sweeps = SweepSet(((4, 3), (3, 5)), (small.crossbar.cell,), small.replace(circuits=CircuitRanges()))
    run_sweep_set(sweeps, tmp_path / "here", workers=1)
    run_sweep_set(sweeps, tmp_path / "there", executor="ray")
    for name in sweeps.sweeps():
        assert content(tmp_path / "here" / name) == content(tmp_path / "there" / name)


def _kill_once(flag: Path):
    solve_tiles = run.solve_tiles

    def solve(item):
        start, stop = item.shards.config.shard_range(item.shard)
        if start == 8 and not flag.exists():
            flag.touch()
            os._exit(1)
        return Failure("tile 13: does not settle") if start == 12 else solve_tiles(item.shards.config, start, stop)

    return solve


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_dead_worker_is_replaced_and_a_failure_told(
    small: SweepConfig, tmp_path: Path, content, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, flag = tmp_path / "a.h5", tmp_path / "flag"
    with monkeypatch.context() as patch:
        patch.setattr(run, "_solve_shard", _kill_once(flag))
        with pytest.raises(SweepError, match=r"1 of 6 shards.*tiles 12 to 15: tile 13: does not settle"):
            run_sweep(small, out, executor="ray")
    assert flag.exists()
    run_sweep(small, out, executor="ray")
    run_sweep(small, tmp_path / "b.h5", workers=1)
    assert content(out) == content(tmp_path / "b.h5")
