"""Tables of studies in files, and the pictures that are drawn from them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from made_up_study import AXES, NETWORKS, made_up

from geniex.errors import InputError
from geniex.study.grid import draw_pictures, read_table
from geniex.study.grid.files import find_axes, to_csv, to_parquet
from geniex.study.grid.pictures import save_pictures


def test_csv_comes_back_as_it_was() -> None:
    study = made_up({"network": NETWORKS, "grid": AXES, "baseline": {"mitigation": "none"}}).study
    for rows in (study.rows, study.summary):
        back = list(csv.DictReader(io.StringIO(to_csv(rows))))
        assert len(back) == len(rows)
        for read, row in zip(back, rows, strict=True):
            assert list(read) == list(row)
            for name, value in row.items():
                assert read[name] == ("" if value is None else str(value))
                if isinstance(value, float):
                    assert float(read[name]) == value


def test_parquet_comes_back_as_it_was() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    made = made_up({"network": NETWORKS, "grid": AXES | {"fold": [True, False]}})
    del made.found["point/1/net-0/0"]
    rows = made.study.rows
    back = parquet.read_table(io.BytesIO(to_parquet(rows))).to_pylist()
    words = [row | {"tile": str(row["tile"]), "fold": str(row["fold"])} for row in rows]
    assert back == words
    assert isinstance(back[0]["accuracy"], float)
    assert isinstance(back[0]["images"], int)


@pytest.mark.parametrize("name", ["table", "summary"])
def test_a_table_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    made = made_up({"network": NETWORKS, "grid": AXES | {"fold": [True, False]}, "baseline": {"mitigation": "none"}})
    del made.found["point/1/net-0/0"]
    rows = made.study.rows if name == "table" else made.study.summary
    (tmp_path / "t.csv").write_text(to_csv(rows))
    (tmp_path / "t.parquet").write_bytes(to_parquet(rows))
    words = [row | {"fold": str(row["fold"])} for row in rows]
    assert read_table(tmp_path / "t.csv") == words
    assert [type(value) for value in read_table(tmp_path / "t.csv")[0].values()] == [type(v) for v in words[0].values()]
    assert read_table(str(tmp_path / "t.parquet")) == [row | {"tile": str(row["tile"])} for row in words]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"path: got .*none.csv.* it must be a study's table.csv"):
        read_table(tmp_path / "none.csv")
    for text in ("", "a,b\n1,2\n3\n"):
        (tmp_path / "cut.csv").write_text(text)
        with pytest.raises(InputError, match=r"rows of equal length"):
            read_table(tmp_path / "cut.csv")


def test_a_summary_read_again_has_the_same_axes_and_pictures(tmp_path: Path) -> None:
    study = made_up({"network": NETWORKS, "grid": AXES}).study
    (tmp_path / "summary.csv").write_text(to_csv(study.summary))
    again = read_table(tmp_path / "summary.csv")
    assert find_axes(again) == list(study.axes)
    assert [name for name, _ in draw_pictures(again)] == [name for name, _ in draw_pictures(study.summary)]
    with pytest.raises(InputError, match=r"it must be the table of a summary.csv"):
        find_axes(study.rows)


def test_accuracies_and_logit_errors_are_drawn_at_their_values() -> None:
    made = made_up({"grid": {"tile": [16, 32, 64]}})
    pictures = dict(draw_pictures(made.study.summary))
    for name, column, ideal in (
        ("accuracy-tile", "accuracy", "ideal_accuracy"),
        ("logit-error-tile", "logit_error", "ideal_logit_error"),
    ):
        shown = {line.get_label(): list(line.get_ydata()) for line in pictures[name].get_lines()}
        assert shown[column.replace("_", " ")] == pytest.approx([100 * row[column] for row in made.study.summary])
        assert shown["ideal tiles"] == pytest.approx([100 * row[ideal] for row in made.study.summary])
        assert pictures[name].get_ylabel() == f"{column.replace('_', ' ')}, %"


def test_a_point_without_a_logit_error_is_not_drawn_there() -> None:
    made = made_up({"grid": {"tile": [16, 32]}})
    for found in made.found.values():
        found["logit_error"] = [None, None, None]
    assert [name for name, _ in draw_pictures(made.study.summary) if "tile" in name] == ["accuracy-tile"]


def test_axes_in_step_share_a_picture_and_words_tell_lines_apart(tmp_path: Path) -> None:
    given = {
        "grid": {"emulator": ["linear", "physics-fast"]},
        "zip": {"architecture.slice_bits": [1, 2], "architecture.stream_bits": [1, 2]},
    }
    pictures = [path.stem for path in save_pictures(made_up(given).study, tmp_path)]
    assert [name for name in pictures if name.startswith("accuracy")] == ["accuracy-architecture-slice-bits"]
