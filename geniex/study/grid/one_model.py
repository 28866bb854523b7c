"""One network on one crossbar, before and after one mitigation, with the model that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from geniex.errors import InputError
from geniex.study.grid.fine_tuning import Say
from geniex.study.grid.job import Job, compute
from geniex.study.grid.plan import StudyPlan, plan_study
from geniex.study.grid.spec import StudySpec
from geniex.study.grid.table import Results, Row, Study, tabulate


@dataclass(frozen=True)
class Mitigated:
    """The result of ``compute_mitigated``."""

    study: Study
    """The study of two points: the crossbar without and with the mitigation."""
    model: nn.Module = field(repr=False)
    """The converted model with the mitigation."""

    @property
    def before(self) -> Row:
        """The summary row of the crossbar without mitigation."""
        return self.study.summary[0]

    @property
    def after(self) -> Row:
        """The summary row of the crossbar with the mitigation."""
        return self.study.summary[1]


def plan_before_and_after(
    given: Mapping[str, Any], mitigation: str, *, device: str = "cpu", data_root: Path | None = None
) -> StudyPlan:
    """The checked plan of a study of one network on one crossbar, without and with a mitigation.

    Args:
        given: the settings of a point by their dotted names, as in a study, with one network and without mitigation.
        mitigation: the mitigation, such as "srs", "fine_tuning" or "assignment + gain".
        device: where to compute, such as "cpu" or "cuda".
        data_root: folder of the image sets, if they are not in the default one.

    Raises:
        InputError: a setting is not allowed, or ``given`` has several networks, draws or points.
    """
    spec = StudySpec.of({**given, "grid": {"mitigation": ["none", mitigation]}})
    plan = plan_study(spec, device=device, data_root=data_root, name_points=False)
    if [len(point.runs) for point in plan.points] != [1, 1]:
        raise InputError(
            "given",
            "settings of several runs",
            "only one run is possible: give one network, one draw of the devices and no parts",
        )
    return plan


def compute_mitigated(plan: StudyPlan, say: Say = lambda what, done, whole: None) -> Mitigated:
    """The result of a plan from ``plan_before_and_after``, computed in this process.

    Args:
        plan: the plan.
        say: called with a description of the present work, the part done and the whole.

    Raises:
        GeniexError: the network cannot be put onto the crossbars, or a mitigation cannot be applied to it.
    """
    done = {job.key: compute(job, partial(_say_of, say, job)) for job in plan.jobs}
    results = Results({key: one.result for key, one in done.items()}, {})
    (run,) = plan.points[1].runs
    return Mitigated(tabulate(plan, results, run.job.device), done[run.job.key].model)


def _say_of(say: Say, job: Job, what: str, done: int, whole: int) -> None:
    where = "float" if job.floating else " + ".join(job.settings.mitigation) or job.settings.emulator
    say(f"{where}: {what}", done, whole)
