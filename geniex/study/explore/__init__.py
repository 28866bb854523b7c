"""Design-space exploration: networks on crossbars over grids of settings, ``run_study`` in one call.

A YAML file, or a mapping, says what stays (any setting, by its dotted name) and what varies::

    network: fashion-cnn            # a list: several trainings, over which intervals are taken
    images: 1000
    emulator: physics-fast          # or ideal, linear, circuit, another surrogate
    grid:                           # all combinations
      tile: [16, 32, 64]
      window.on_off: [2, 6, 10]
    zip:                            # in step
      architecture.slice_bits: [1, 2, 4]
      architecture.stream_bits: [1, 2, 4]
    parts: []                       # sub-grids to unite: each has settings, a grid and a zip of its own
    baseline: {window.on_off: 6}    # what cells that are alike in all else are compared with
"""

from geniex.study.explore.files import read_table
from geniex.study.explore.pictures import study_pictures
from geniex.study.explore.plan import StudyPlan, planned
from geniex.study.explore.report import write_study
from geniex.study.explore.run import run_study
from geniex.study.explore.settings import CellSettings, Pruning
from geniex.study.explore.spec import StudySpec
from geniex.study.explore.table import Study

__all__ = [
    "CellSettings",
    "Pruning",
    "Study",
    "StudyPlan",
    "StudySpec",
    "planned",
    "read_table",
    "run_study",
    "study_pictures",
    "write_study",
]
