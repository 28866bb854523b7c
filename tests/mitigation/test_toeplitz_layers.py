"""Mitigation and unrolled convolutions: what takes outputs alone works, what moves them leaves these layers out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import IdealEmulator, LinearEmulator
from geniex.mapping import Architecture
from geniex.mitigation import REMAPPINGS, correct_outputs, remap
from geniex.simulator import convert, replace_emulator

ARCH = Architecture(tile=(8, 14), weight_bits=10, input_bits=10, slice_bits=3, stream_bits=3, adc_bits=None)
WIRED = LinearEmulator(Crossbar(8, 14, r_wire=300.0, r_source=300.0))


def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    return model, torch.rand(12, 1, 6, 6)


def test_gains_and_offsets_are_fitted_by_channel() -> None:
    """One gain a channel for all its positions, with which the outputs are nearer to the network's."""
    model, x = network()
    sparse = convert(model, ARCH, WIRED, calibration=x, layout="toeplitz")
    calibrated = correct_outputs(sparse, x)
    assert calibrated[0].output_gain.shape == (4,)  # type: ignore[index, union-attr]
    wanted = model[0](x)  # type: ignore[index]
    before, after = ((m[0](x) - wanted).square().mean() for m in (sparse, calibrated))  # type: ignore[index]
    assert after < before / 2


@pytest.mark.parametrize("name", ["srs", "drs_taylor", "assignment", "rearrange", "mdm", "l1"])
def test_remappings_leave_unrolled_layers_where_they_are(name: str) -> None:
    model, x = network()
    exact = ARCH.replace(accumulator_bits=None)
    ideal = convert(model, exact, IdealEmulator(), calibration=x, layout="toeplitz")
    remapped = remap(replace_emulator(ideal, WIRED), REMAPPINGS[name], (x, torch.randint(0, 3, (12,)))).model
    matrix = remapped[0].matrix  # type: ignore[index, union-attr]
    places = matrix.layout.arrangement
    assert places.inputs is None
    assert places.outputs is None
    assert (places.lines is not None) == (name == "mdm")  # the order of bits is any tile's
    assert torch.equal(matrix.layout.off_lines(matrix.conductances), ideal[0].matrix.conductances)  # type: ignore[index, union-attr]
    assert torch.equal(replace_emulator(remapped, IdealEmulator())(x), ideal(x))
