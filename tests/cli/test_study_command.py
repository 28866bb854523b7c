"""``geniex study`` from the shell: files by name, settings by option, one line for what cannot be."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "study"))

from grid_cases import BASE, write_images, write_network

from geniex.cli.main import main
from geniex.study.configs import find_study, list_shipped_studies
from geniex.study.grid import StudySpec, plan_study
from geniex.sweep.loading import YamlLoader


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_images(tmp_path_factory.mktemp("images"))
    write_network("fashion-cnn", folder / "net", folder)
    return folder


@pytest.fixture
def config(root: Path, tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    grid = {"tile": [8, 16]}
    path.write_text(yaml.safe_dump(BASE | {"network": str(root / "net"), "grid": grid, "baseline": {"tile": 16}}))
    return path


def study(config: Path | str, root: Path, *options: str) -> int:
    return main(["study", str(config), "--data_root", str(root), *options])


@pytest.mark.slow
def test_it_leaves_tables_a_page_and_figures(
    config: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told = tmp_path / "out", tmp_path / "told.json"
    assert study(config, root, "--out", str(out), "--json", str(told)) == 0
    said = capsys.readouterr().out
    assert f"report: {out / 'report.html'}" in said
    assert "above baseline" in said
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["tile"] for row in rows] == ["8", "16"]
    assert json.loads(told.read_text())["rows"][0]["accuracy"] == float(rows[0]["accuracy"])
    assert (out / "accuracy-tile.png").stat().st_size > 1000
    assert len(list((out / "kept").iterdir())) == 5


@pytest.mark.slow
def test_options_override_settings_and_the_folder_has_the_file_s_name(
    config: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert study(config, root, "--set", "images=10", "--set", "crossbar.r_wire=5e0", "--set", "emulator=ideal") == 0
    kept = json.loads((tmp_path / "mine" / "report.json").read_text())
    assert [row["images"] for row in kept["rows"]] == [10, 10]
    assert kept["configuration"]["points"][0]["settings"]["crossbar"]["r_wire"] == 5.0
    assert kept["configuration"]["asked"]["set"] == {"images": 10, "crossbar.r_wire": 5.0, "emulator": "ideal"}
    capsys.readouterr()


def test_a_plan_runs_nothing(
    config: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert study(config, root, "--plan") == 0
    said = capsys.readouterr().out
    assert "tile 8" in said
    assert "tile 16" in said
    assert "5 jobs, including references; nothing was run" in said
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--set", "images"], "set: got 'images'; it must be NAME=VALUE"),
        (["--set", "imags=3"], "did you mean images?"),
        (["--set", "images=[3"], "its value must be valid YAML"),
        (["--set", "tile=8"], "tile: got an axis of this study"),
        (["--set", "images=0"], "images: got 0"),
        (["--workers", "0"], "workers: got 0"),
        (["--device", "abacus"], "device: got 'abacus'"),
        (["--executor", "slurm"], "executor"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    config: Path, root: Path, tmp_path: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert study(config, root, "--out", str(out), *options) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_unknown_studies_and_studies_that_cannot_be_are_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study("no-such.yaml", root) == 2
    assert "no such file: give a file, or one of dense-sparse.yaml" in capsys.readouterr().err
    bad = tmp_path / "bad.yaml"
    bad.write_text("tyle: 3\n")
    assert study(bad, root) == 2
    assert "bad.yaml: tyle: got an unknown field; did you mean tile?" in capsys.readouterr().err


def test_points_that_fail_end_in_a_line_and_status_2(
    config: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from geniex.study.grid import run

    real = run.run_job
    monkeypatch.setattr(
        run, "run_job", lambda job: "it broke" if job.settings.architecture.tile == (8, 8) else real(job)
    )
    assert study(config, root, "--out", str(tmp_path / "out")) == 2
    said = capsys.readouterr()
    assert "1 of 2 runs have no result" in said.err
    assert "it broke" in said.err
    assert said.err.count("\n") == 1
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_missing_packages_are_told(
    config: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert study(config, root, "--out", str(tmp_path / "out"), "--set", "emulator=ideal") == 0
    assert "no Parquet: pyarrow not found" in capsys.readouterr().out


FEW = {"images": 4, "calibration_images": 4}
FEWER_THAN = {
    "xchangr.yaml": {"first_images": 3},
    "fine-tuning.yaml": {"calibration_start": 20, "fine_tuning.left_out": 20, "check.images": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list_shipped_studies())
def test_shipped_studies_are_found_valid_as_they_are(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From anywhere; networks, circuits and surrogates go together. Fewer images than theirs are enough for that."""
    monkeypatch.chdir(root)
    plan = plan_study(StudySpec.of(name, FEW | FEWER_THAN.get(name, {})), data_root=root)
    assert len(plan.points) >= 3
    assert any(plan.baseline(point) for point in plan.points) == bool(plan.spec.baseline)


@pytest.mark.parametrize("name", [name for name in list_shipped_studies() if name != "sparse-xbar.yaml"])
def test_for_cifar_data_and_network_alone_change(name: str) -> None:
    changed = yaml.load(find_study(name).read_text(), Loader=YamlLoader) | {
        "data": "cifar100",
        "network": "r20-0",
    }
    here, there = ([p.settings for p in StudySpec.of(x).points()] for x in (name, changed))
    apart: set[str] = {key for a, b in zip(here, there, strict=True) for key in a if str(a[key]) != str(b[key])}
    assert apart == {"data", "network"}


def test_the_sparse_study_asks_for_three_trainings_of_each_network() -> None:
    spec = StudySpec.of("sparse-xbar.yaml")
    groups: dict[Any, Any] = {p.labels["network"]: p.settings["network"] for p in spec.points()}
    assert len(groups) == 8
    assert all(len(names) == 3 for names in groups.values())
    assert {p.settings["layout"] for p in spec.points() if p.part != "T"} == {"compacted"}
    assert {p.settings["layout"] for p in spec.points() if p.part == "T"} == {"dense", "compacted"}


def test_a_narrow_terminal_keeps_the_axes() -> None:
    """What there is no room for is left out from the end, and named; without its axes no row could be told."""
    from rich.console import Console

    from geniex.cli.study import _fitting

    header = ["tile", "on/off", "accuracy, %", "arrays", "conversions, millions"]
    rows = [["16", "2", "90.00 (83.9 to 95.0)", "123", "1.2"], ["32", "2", "90.00 (83.9 to 95.0)", "123", "1.2"]]
    wide, left_out = _fitting(Console(width=160), "table", header, rows)
    assert ([column.header for column in wide.columns], left_out) == (header, [])
    narrow, left_out = _fitting(Console(width=48), "table", header, rows)
    assert [column.header for column in narrow.columns][:2] == ["tile", "on/off"]
    assert left_out == header[len(narrow.columns) :] != []
