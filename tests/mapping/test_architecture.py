"""Numbers derived from an architecture: right after every change, and no part of what the architecture is."""

from __future__ import annotations

import copy
import pickle
from functools import cached_property

import pytest

from geniex.config import Config
from geniex.mapping import Architecture, ConductanceWindow

DERIVED = [name for name, value in vars(Architecture).items() if isinstance(value, cached_property)]


def looked_at() -> Architecture:
    """An architecture whose derived numbers have all been computed."""
    arch = Architecture(weight_bits=8, slice_bits=2, stream_bits=2)
    for name in DERIVED:
        getattr(arch, name)
    return arch


def test_derived_numbers_are_no_part_of_an_architecture() -> None:
    fresh, used = Architecture(weight_bits=8, slice_bits=2, stream_bits=2), looked_at()
    assert fresh == used
    assert hash(fresh) == hash(used)
    assert fresh.to_dict() == used.to_dict()
    assert Config.from_dict(used.to_dict()) == fresh
    assert repr(fresh) == repr(used)
    assert pickle.dumps(fresh) == pickle.dumps(used)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda arch: pickle.loads(pickle.dumps(arch))])
def test_copies_have_the_same_numbers(copied: object) -> None:
    used = looked_at()
    again = copied(used)  # type: ignore[operator]
    assert again == used
    assert {name: getattr(again, name) for name in DERIVED} == {name: getattr(used, name) for name in DERIVED}


def test_a_changed_architecture_has_numbers_of_its_own() -> None:
    used = looked_at()
    assert (used.slices, used.streams, used.adc_codes) == (4, 8, (-8192, 8191))
    changed = used.replace(slice_bits=7, stream_bits=5, adc_bits=4, offset="ideal_after")
    assert (changed.slices, changed.streams, changed.adc_codes) == (1, 3, (0, 15))
    assert changed.outputs_per_tile == 64
    assert used.outputs_per_tile == 16


def test_a_window_keeps_its_ends() -> None:
    window = ConductanceWindow(r_on=1e4, on_off=5)
    assert (window.g_on, window.g_off) == (1e-4, 1 / 5e4)
    assert window == ConductanceWindow(r_on=1e4, on_off=5)
    assert pickle.dumps(window) == pickle.dumps(ConductanceWindow(r_on=1e4, on_off=5))
    assert window.replace(r_on=2e4).g_on == 5e-5
