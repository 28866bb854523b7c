"""Errors, with one small class per failing stage; every message names the thing, its value and the way out."""

from __future__ import annotations

from geniex.distribution import check_import

# All packages of geniex import this module, so it notices if another project's geniex/__init__.py has replaced ours.
check_import()


class GeniexError(Exception):
    """The base of every error that geniex raises on purpose; the shell prints it in one line and exits with 2."""


class InputError(GeniexError, ValueError):
    """An argument has a value that is not allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        self.name, self.value, self.allowed = name, value, allowed
        super().__init__(f"{name}: got {value}; {allowed}")

    def __reduce__(self) -> tuple[type[InputError], tuple[object, ...]]:
        # A worker process sends the error to its parent; by default, unpickling would pass the message alone.
        return type(self), (self.name, self.value, self.allowed)


class MissingDependencyError(GeniexError, ImportError):
    """An optional package, a system library or a data set is not on this machine."""

    def __init__(self, what: str, needed_for: str, way_out: str) -> None:
        self.what, self.needed_for, self.way_out = what, needed_for, way_out
        super().__init__(f"{what} not found, needed for {needed_for}: {way_out}")

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[object, ...]]:
        return type(self), (self.what, self.needed_for, self.way_out)


class ConvergenceError(GeniexError, RuntimeError):
    """A circuit solution did not reach the requested tolerance."""


class ConvergenceWarning(UserWarning):
    """A circuit solution did not reach the requested tolerance and is returned all the same, as was asked."""


class UnitWarning(UserWarning):
    """A value is allowed, but so unusual that it may be in another unit than the expected one."""


class SpiceError(GeniexError, RuntimeError):
    """ngspice did not return a solution."""


class FileFormatError(GeniexError, ValueError):
    """A file is truncated, foreign, or of another schema version."""


class JobError(GeniexError, RuntimeError):
    """Jobs cannot start or go on: their workers keep dying, there is no cluster, or the disk takes no results."""


class SweepError(GeniexError, RuntimeError):
    """A sweep cannot start, go on or finish."""


class CheckpointError(GeniexError, ValueError):
    """A saved surrogate or network is damaged, of another format, or belongs to another crossbar."""


class ConversionError(GeniexError, ValueError):
    """A model cannot be put onto crossbars as asked."""


class ConversionWarning(UserWarning):
    """A converted layer clips, overflows or loses most of its resolution on the calibration inputs."""


class StudyError(GeniexError, RuntimeError):
    """Grid points of a study have no result."""
