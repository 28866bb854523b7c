"""Without PySpice or libngspice, errors say what to install."""

import sys
from collections.abc import Generator

import pytest
import torch

from geniex.circuit import Crossbar
from geniex.circuit.spice import worker as ngspice
from geniex.errors import MissingDependencyError

V, G = torch.full((2,), 0.1), torch.full((2, 2), 1e-5)


@pytest.fixture(autouse=True)
def _fresh_process() -> Generator[None]:
    ngspice._library.cache_clear()
    yield
    ngspice._library.cache_clear()


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGSPICE_LIBRARY_PATH", "/nowhere/libngspice.so")
    with pytest.raises(MissingDependencyError, match=r"/nowhere/.* apt-get install ngspice libngspice0-dev"):
        Crossbar(2, 2).solve(V, G, method="ngspice")
    assert ngspice.ngspice_version() is None


def test_missing_pyspice(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("PySpice.Spice.Netlist", "PySpice.Spice.NgSpice.Shared"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(ngspice, "find_library", lambda: "libngspice.so")
    with pytest.raises(MissingDependencyError, match=r"PySpice not found.*geniex-crossbar\[spice\]"):
        Crossbar(2, 2).solve(V, G, method="ngspice")
    assert ngspice.ngspice_version() is None
