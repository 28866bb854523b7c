"""``geniex study``: accuracy and costs of networks over a grid of crossbar settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from geniex.cli._device import check_device
from geniex.cli._files import check_file, write_json
from geniex.cli._progress import Bars
from geniex.cli._tables import make_plain_table, make_report_console
from geniex.errors import InputError, StudyError
from geniex.jobs import Executor
from geniex.plotting.study import short_number
from geniex.study.grid import Study, StudyPlan, StudySpec, plan_study, run_study
from geniex.study.grid.pictures import shorten_title
from geniex.study.grid.report import tabulate_summary, write_notes
from geniex.sweep.loading import YamlLoader


def study(
    config: Path,
    out: Path | None = None,
    workers: int | None = None,
    executor: Executor = "local",
    device: str = "cpu",
    set: list[str] | None = None,
    plan: bool = False,
    data_root: Path | None = None,
    json: Path | None = None,
) -> None:
    """Evaluate networks on crossbars at every point of a grid of settings: accuracy, costs, tables and figures.

    Args:
        config: YAML file of a study, or the name of a shipped one: geniex-size-ron-onoff.yaml,
            geniex-precision-slices.yaml, sparse-xbar.yaml, dense-sparse.yaml, xchangr.yaml, fine-tuning.yaml.
        out: folder for table.csv, table.parquet, summary.csv, further tables, report.html, report.md, report.json and
            figures; results are stored there as they finish, so that the same command resumes after an interruption
            and retries failed runs; default: the configuration's name, in the current directory.
        workers: number of processes with one thread each, 1 if not given; on a Ray cluster the number of concurrent
            jobs, two per processor if not given.
        executor: run jobs in local processes, or on a Ray cluster: the one at RAY_ADDRESS, otherwise one on this
            machine.
        device: device that each process computes on, such as cpu or cuda.
        set: setting for all grid points that overrides the file, as NAME=VALUE, such as images=100; repeat the option
            for several.
        plan: check all settings and list the grid points, without running them.
        data_root: folder of the data set, if it is not in the default place.
        json: file for the machine-readable report only.
    """
    changes = _changes(set or [])
    check_file("json", json)
    check_device(device)
    spec = StudySpec.of(config, changes)
    if plan:
        _tell(plan_study(spec, device=device, data_root=data_root))
        return
    target = Path(config.stem) if out is None else out
    with Bars() as bars:
        found = run_study(
            spec,
            target,
            workers=workers,
            executor=executor,
            device=device,
            data_root=data_root,
            progress=lambda done, whole: bars.update("jobs", done, whole),
        )
    _print(found)
    write_json(json, found.to_dict())
    print(f"report: {target / 'report.html'}")
    for missing in found.missing:
        print(missing)
    if found.failed:
        first = found.failed[0]
        raise StudyError(
            f"{len(found.failed)} of {len(found.rows)} runs have no result; the others are in {target}, and the same"
            f" command tries the failed ones again; the first: {first['error']}"
        )


def _changes(given: list[str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError("set", repr(text), "it must be NAME=VALUE, such as images=100")
        try:
            changes[name.strip()] = yaml.load(value, Loader=YamlLoader)
        except yaml.YAMLError:
            raise InputError("set", repr(text), "its value must be valid YAML") from None
    return changes


def _tell(plan: StudyPlan) -> None:
    table = make_plain_table(
        escape(f"{plan.spec.title}: {len(plan.points)} points"), ("part", "point"), ("networks", "draws")
    )
    own = {part.name: [axis.name for axis in part.axes] for part in plan.spec.parts}
    for point in plan.points:
        told = ", ".join(f"{shorten_title(name)} {short_number(point.labels[name])}" for name in own[point.part])
        table.add_row(escape(point.part), escape(told), str(len(point.settings.networks)), str(point.settings.draws))
    make_report_console().print(table)
    print(f"{len(plan.jobs)} jobs, including references; nothing was run")


def _print(found: Study) -> None:
    console = make_report_console()
    console.print(found.title, highlight=False, markup=False)
    for title, (header, rows) in tabulate_summary(found).items():
        table, left_out = _fitting(console, title, header, rows)
        console.print(table)
        if left_out:
            console.print(
                f"columns that do not fit here are in report.md: {', '.join(left_out)}", highlight=False, markup=False
            )
    for note in write_notes(found):
        console.print(note, highlight=False, markup=False)


def _fitting(
    console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Table, list[str]]:
    """The table with as many of the first columns as the console has room for, and the columns that it leaves out.

    Axes come first, because without them rows could not be told apart.
    """
    for count in range(len(header), 0, -1):
        table = make_plain_table(escape(title), header[:1], header[1:count])
        for row in rows:
            table.add_row(*map(escape, row[:count]))
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
            break
    return table, list(header[count:])
