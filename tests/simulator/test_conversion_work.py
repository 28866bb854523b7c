"""How much of geniex a conversion runs through: a weight's way onto crossbars stays short enough to be followed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import geniex
from geniex import Architecture, IdealEmulator, LinearEmulator, convert, presets
from geniex.emulator import Emulator
from geniex.mapping import LAYOUTS, register_layout
from geniex.mapping.layout import grouped
from geniex.simulator import dry_run

ROOT = Path(geniex.__file__).parent
CIRCUIT = ("circuit/", "cells/")
"""Rooms whose work is that of the circuit, however short the way to it is."""


def calls_of(work: Callable[[], object]) -> Counter[str]:
    """The number of calls of geniex's functions by file, in the second run of ``work``."""
    work()
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            counts[path.relative_to(ROOT).as_posix()] += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return Counter({file: n for file, n in counts.items() if not file.startswith(CIRCUIT)})


@pytest.mark.parametrize("kind", ["ideal", "linear"])
def test_two_linear_layers_take_few_calls(kind: str) -> None:
    """At most half the calls of an earlier version: 881 in 28 files for ideal crossbars, 1666 in 33 for linear ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    preset = presets["geniex-64"]
    emulator: Emulator = IdealEmulator() if kind == "ideal" else LinearEmulator(preset.crossbar)
    arch = Architecture(input_frac_bits=13) if kind == "ideal" else preset.architecture()
    x = None if kind == "ideal" else torch.rand(32, 64)
    counts = calls_of(lambda: convert(model, arch, emulator, calibration=x))
    calls, files = (440, 23) if kind == "ideal" else (833, 31)
    assert counts.total() <= calls, counts.most_common()
    assert len(counts) <= files, sorted(counts)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_matrix_is_laid_out_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan, the crossbar layer, and the report share one layout."""
    layout, laid = f"counted_{name}", list[object]()
    known = grouped._layouts[name]

    def tile(*given: Any) -> Any:
        laid.append(known.tile(*given))
        return laid[-1]

    monkeypatch.setattr(grouped, "_layouts", dict(grouped._layouts))
    register_layout(layout, tile=tile, pack=known.pack, unrolls=known.unrolls)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    arch, x = Architecture(tile=(32, 32), input_frac_bits=12), torch.rand(2, 2, 4, 4)
    matrices = {"dense": 3, "toeplitz": 1}.get(name, 2)  # a linear layer is never unrolled, but laid out densely
    convert(model, arch, IdealEmulator(), calibration=x, layout=layout)
    assert len(laid) == matrices
    dry_run(model, arch, IdealEmulator(), example=x, layout=layout)
    assert len(laid) == 2 * matrices
