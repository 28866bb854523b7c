"""Converted models compute what they did when the reference was saved, for every emulator, layout and scheme.

On the machine that saved it they do so to the bit (``python tests/benchmarks/same_results.py --compare``). Another
CPU's sums and exponentials may differ in their last bits.
"""

import importlib.util
from pathlib import Path

import pytest
import safetensors.torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "same_results.py"
PARTS = 5
"""Cases are split by their number into so many parts, each of which has all emulators, layouts and schemes."""
TOLERANCE = 1e-6
"""Largest difference of a tensor, over its largest magnitude."""

spec = importlib.util.spec_from_file_location("same_results", SCRIPT)
same_results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(same_results)

NAMES = [name for name, _ in same_results.cases()]


@pytest.mark.parametrize("part", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, PARTS))])
def test_outputs_are_those_of_the_reference(part: int) -> None:
    wanted = set(NAMES[part::PARTS])
    reference = safetensors.torch.load_file(same_results.REFERENCE)
    reference = {name: tensor for name, tensor in reference.items() if name.rpartition(": ")[0] in wanted}
    found = same_results.computed(wanted.__contains__)
    assert sorted(found) == sorted(reference)
    unlike = same_results.differences(found, reference)
    assert {name: value for name, value in unlike.items() if not value <= TOLERANCE} == {}


def test_the_reference_has_no_other_cases() -> None:
    reference = safetensors.torch.load_file(same_results.REFERENCE)
    assert {name.rpartition(": ")[0] for name in reference} == set(NAMES)
