"""Design-space exploration: networks on crossbars over grids of settings, ``run_study`` in one call.

A YAML file or a mapping gives the fixed settings (any setting, by its dotted name) and the varied ones::

    network: fashion-cnn            # a list names several trainings; intervals are taken over them
    images: 1000
    emulator: physics-fast          # or ideal, linear, circuit, another surrogate
    grid:                           # axes in all combinations
      tile: [16, 32, 64]
      window.on_off: [2, 6, 10]
    zip:                            # axes that go in step
      architecture.slice_bits: [1, 2, 4]
      architecture.stream_bits: [1, 2, 4]
    parts: []                       # sub-grids to unite; each has its own settings, grid and zip
    baseline: {window.on_off: 6}    # each point is compared with the one that has these values, all else equal
    differences: [tile]             # compares every two points of a part that differ on this axis only

A point is one combination of the varied settings.
"""

from geniex.study.grid.fields import register_variation
from geniex.study.grid.files import read_table
from geniex.study.grid.groups import Pruning
from geniex.study.grid.pictures import draw_pictures
from geniex.study.grid.plan import StudyPlan, plan_study
from geniex.study.grid.report import write_study
from geniex.study.grid.run import run_study
from geniex.study.grid.settings import PointSettings
from geniex.study.grid.spec import StudySpec
from geniex.study.grid.table import Study

__all__ = [
    "PointSettings",
    "Pruning",
    "Study",
    "StudyPlan",
    "StudySpec",
    "draw_pictures",
    "plan_study",
    "read_table",
    "register_variation",
    "run_study",
    "write_study",
]
