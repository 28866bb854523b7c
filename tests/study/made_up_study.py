"""Studies whose results are made up by hand, for tests of tables, files and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from geniex.study.grid import PointSettings, Study, StudyPlan, StudySpec
from geniex.study.grid.job import Job
from geniex.study.grid.plan import PlannedPoint, PlannedRun
from geniex.study.grid.table import Results, tabulate

IMAGES = 200
NETWORKS = ["net-0", "net-1", "net-2"]
AXES: dict[str, Any] = {"tile": [16, [32, 8]], "mitigation": ["none", "gain"]}


@dataclass
class MadeUp:
    """A plan without networks, and results for it."""

    plan: StudyPlan
    found: dict[str, dict[str, Any]]
    errors: dict[str, str]

    @property
    def study(self) -> Study:
        return tabulate(self.plan, Results(self.found, self.errors), "cpu")

    def right(self, key: str) -> np.ndarray:
        return np.array([c == "1" for c in self.found[key]["right"]], dtype=float)


def made_up(given: dict[str, Any], images: int = IMAGES) -> MadeUp:
    spec = StudySpec.of(given)
    random = np.random.default_rng(0)
    found: dict[str, dict[str, Any]] = {}

    def job(settings: PointSettings, name: str, draw: int, kind: str, point: int, share: float) -> Job:
        key = f"{kind}/{point}/{name}/{draw}"
        right = random.random(images) < share
        counts = {
            "arrays": 10 + point,
            "reads": 100 * (point + 1),
            "adc_conversions": 7,
            "static_energy": 1e-9 * (point + 1),
        }
        error = 0.1 * (point + 1) + 0.01 * (ord(name[-1]) % 7) + 0.001 * draw
        found[key] = {
            "right": "".join("01"[int(x)] for x in right),
            "logit_error": [error, error - 0.002, error + 0.003],
            "classes": 10,
            "seconds": 1.0 + point,
            **counts,
        }
        return Job(settings, name, draw, kind == "float", key, "cpu", None)

    points = []
    for k, point in enumerate(spec.points()):
        settings = PointSettings.of(point.settings)
        runs = tuple(
            PlannedRun(
                name,
                draw,
                job(settings, name, draw, "point", k, 0.6 + 0.03 * k + 0.05 * n),
                job(settings, name, 0, "ideal", k, 0.9),
                job(settings, name, 0, "float", k, 0.95),
            )
            for n, name in enumerate(settings.networks)
            for draw in range(settings.draws)
        )
        labels = {name: point.labels.get(name, "none") for name in spec.axes}
        points.append(PlannedPoint(point.part, labels, settings, runs))
    return MadeUp(StudyPlan(spec, tuple(points)), found, {})
