"""Errors cross process boundaries whole: a worker's is what its parent reports."""

import pickle

import pytest

from geniex.errors import GeniexError, InputError, MissingDependencyError, SpiceError


@pytest.mark.parametrize(
    "error",
    [
        InputError("r_wire", -1.0, "it must be at least 0 ohm"),
        MissingDependencyError("ngspice", "engine ngspice", "apt-get install ngspice"),
        SpiceError("ngspice did not converge"),
    ],
)
def test_errors_survive_a_pickle(error: GeniexError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
