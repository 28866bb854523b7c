"""What all tests share: one torch thread, seeded randomness, and no test of ngspice or Ray skipped in CI."""

import os
from collections.abc import Generator

import pytest
import torch
from hypothesis import settings

MUST_RUN = ("ngspice", "ray")
"""Markers of tests whose dependency `make setup` installs: in CI a skip of them is a failure."""
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

torch.set_num_threads(1)

# They are no doctests, and collected as such those of two folders clash.
collect_ignore_glob = ["*/conftest.py"]

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if IN_CI else "here")


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator that starts every test at the same seed."""
    return torch.Generator().manual_seed(0)


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport, where: str) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{where} must run in CI, but: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and any(item.get_closest_marker(name) for name in MUST_RUN):
        _fail_if_skipped(report, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI and "spice" in collector.nodeid:
        _fail_if_skipped(report, collector.nodeid)
    return report
