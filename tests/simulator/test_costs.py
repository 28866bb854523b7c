"""Counts done by hand, energies against the exact circuit read by read."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import geniex
from geniex.cells import LinearCell
from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import InputError
from geniex.mapping import OFFSETS, Architecture
from geniex.simulator import Costs, convert, costs, dry_run, find_crossbar_matrices, vary
from geniex.variation import ReadNoise, Variations
from geniex.workspace import workspace_limit

ARCH = Architecture(tile=(16, 18), weight_bits=9, input_bits=9, slice_bits=4, stream_bits=4, input_frac_bits=8)
"""Two slices: eight outputs on a tile, nine where no column is for anything else."""
CROSSBAR = Crossbar(16, 18, r_wire=8.0, r_source=200.0)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 25, 11), nn.ReLU()
    ).eval()


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 2, 5, 5, generator=torch.Generator().manual_seed(1))


def on(emulator: Emulator, arch: Architecture = ARCH, **options: Any) -> nn.Module:
    return convert(network(), arch, emulator, calibration=images(), **options)


def read_by_read(model: nn.Module, x: Tensor, power: Any) -> list[float]:
    """Sums over reads and arrays of ``power`` (drive (rows,), cells (rows, cols)), layer by layer, by the integers."""
    found = []
    for layer in model:
        total = 0.0
        if hasattr(layer, "matrices"):
            for matrix, vectors in zip(layer.matrices, layer.packing.split(layer.matrix_inputs(x)), strict=True):
                arch = matrix.architecture
                wholes = (vectors.double() * 2.0**matrix.input_frac_bits).round().clamp(-255, 255)
                for part in wholes.clamp(min=0), (-wholes).clamp(min=0):
                    for shift in (4, 0):
                        level = ((part.long() >> shift) & 15).double()
                        for r, row_tile in enumerate(matrix.conductances.double()):
                            drive = level[:, 16 * r : 16 * (r + 1)] * (arch.v_max / 15)
                            drive = nn.functional.pad(drive, (0, 16 - drive.shape[1]))
                            total += sum(float(power(drive, cells).sum()) for cells in row_tile.flatten(0, 1))
            found.append(total)
        x = layer(x)
    return found


def test_counts_are_those_done_by_hand() -> None:
    x = images()
    found = costs(on(IdealEmulator()), x, read_time=50e-9)
    conv, linear = found.layers
    # Two groups of 9 inputs would need 18 of 16 word lines: each has arrays of its own, W+ and W-.
    assert (conv.name, conv.kind, conv.layout) == ("0", "CrossbarConv", "block_diagonal")
    assert (conv.arrays, conv.grid_arrays, conv.vectors) == (4, 4, 25)
    # No pixel is negative: one pass of two streams. Two outputs of two slices a group, one ADC for both signs.
    assert (conv.array_reads, conv.adc_conversions) == (25 * 2 * 4, 25 * 2 * 2 * 4)
    # After the Tanh there are signs: two passes. 100 inputs on 7 row tiles, 11 outputs on 2 column tiles.
    assert (linear.arrays, linear.vectors) == (28, 1)
    assert (linear.array_reads, linear.adc_conversions) == (4 * 28, 4 * 7 * 11 * 2)
    assert (found.arrays, found.grid_arrays, found.vectors) == (32, 32, 26)
    assert (found.array_reads, found.adc_conversions) == (200 + 112, 400 + 616)
    assert found.static_energy == pytest.approx(conv.static_energy + linear.static_energy, abs=0)
    assert (found.images, found.read_time, found.exact_energy) == (3, 50e-9, True)
    # Another number of images tells the same of one.
    alone = costs(on(IdealEmulator()), x[:1])
    assert [(r.vectors, r.array_reads) for r in alone.layers] == [(r.vectors, r.array_reads) for r in found.layers]


# Two's complement is one array: there is nothing to take an analog difference with.
SCHEMES = [
    (scheme, offset)
    for scheme in ("differential", "offset", "twos_complement")
    for offset in OFFSETS
    if (scheme, offset) != ("twos_complement", "analog_difference")
]


@pytest.mark.parametrize(("scheme", "offset"), SCHEMES)
def test_conversions_are_those_of_the_scheme(scheme: Any, offset: Any) -> None:
    """A signed ADC serves both arrays, or data less bias; else each column of each array has one, bias columns too."""
    found = costs(on(IdealEmulator(), ARCH.replace(weight_scheme=scheme, offset=offset)), images()).layer("3")
    slices = {"differential": 2, "offset": 3, "twos_complement": 3}[scheme]
    per_tile = (18 - (slices if scheme == "offset" else 0) - (offset == "reference_column")) // slices
    tiles = 7 * -(-11 // per_tile)
    columns = 7 * 11 * slices
    if offset != "analog_difference":
        columns = 2 * columns if scheme == "differential" else columns
        columns += tiles * slices if scheme == "offset" else 0
    assert found.arrays == tiles * (2 if scheme == "differential" else 1)
    assert found.adc_conversions == 4 * columns


@pytest.mark.filterwarnings("ignore::geniex.errors.ConversionWarning")
def test_streams_are_those_of_the_inputs() -> None:
    """Two's complement: nine streams, eight where there is no sign; unsigned: all; analog values need no ADC."""
    binary = costs(on(IdealEmulator(), ARCH.replace(stream_bits=1)), images())
    assert [layer.array_reads for layer in binary.layers] == [25 * 8 * 4, 9 * 28]
    unsigned = costs(on(IdealEmulator(), ARCH.replace(input_scheme="unsigned")), images())
    assert [layer.array_reads for layer in unsigned.layers] == [25 * 3 * 4, 3 * 28]
    one = costs(on(IdealEmulator(), ARCH.replace(stream_bits=1, input_bits=1, input_frac_bits=0)), images())
    assert [layer.array_reads for layer in one.layers] == [25 * 4, 28]
    analog = ARCH.replace(adc_rounding="none", adc_bits=None, accumulator_bits=None)
    assert costs(on(IdealEmulator(), analog), images()).adc_conversions == 0


def test_reads_agree_with_a_dry_run_where_all_inputs_have_a_sign() -> None:
    signed = images() - 0.5
    model = convert(network(), ARCH, IdealEmulator(), calibration=signed)
    dry = dry_run(network(), ARCH, IdealEmulator(), example=signed)
    for layer in costs(model, signed).layers:
        told = dry.layer(layer.name)
        assert (layer.arrays, layer.vectors, layer.array_reads) == (told.arrays, told.vectors, told.array_reads)


def test_the_sparse_layout_reads_more_arrays_once() -> None:
    x = images()
    dense, sparse = (costs(on(IdealEmulator(), layout=layout), x) for layout in ("dense", "toeplitz"))
    one, many = dense.layer("0"), sparse.layer("0")
    assert (one.vectors, many.vectors, many.layout) == (25, 1, "toeplitz")
    assert many.array_reads == 2 * many.arrays
    assert many.grid_arrays == 2 * -(-50 // 16) * -(-100 // 9)
    assert many.arrays < many.grid_arrays
    # By hand, tile by tile: outputs of a tile that exist, two slices each.
    (matrix,) = find_crossbar_matrices(on(IdealEmulator(), layout="toeplitz")[0]).values()  # type: ignore[index]
    outputs = sum(min(9, 100 - 9 * int(c)) for c in matrix.layout.col_of)
    assert many.adc_conversions == 2 * outputs * 2
    assert sparse.layer("3").array_reads == dense.layer("3").array_reads
    assert f"{sparse.arrays:,} of {sparse.grid_arrays:,}" in str(sparse)


@pytest.mark.parametrize("layout", ["dense", "toeplitz"])
def test_a_linear_emulators_energy_is_the_exact_circuits(layout: Any) -> None:
    """Every read of every array solved by the native solver, the power that its resistances take added up."""
    linear, x = CROSSBAR.replace(cell=LinearCell()), images()
    model = on(LinearEmulator(linear), layout=layout, dtype=torch.float64)

    def heat(drive: Tensor, cells: Tensor) -> Tensor:
        point = linear.operating_point(drive, cells, tol=1e-10)
        return point.cell_power + point.wire_power + point.terminal_power

    found = costs(model, x, read_time=20e-9)
    assert found.exact_energy
    if layout == "toeplitz":
        (matrix,) = find_crossbar_matrices(model[0]).values()  # type: ignore[index]
        drives = matrix.reads(model[0].matrix_inputs(x)).voltages  # type: ignore[index, operator]
        expected = [float(linear.operating_point(drives, matrix.conductances).power.sum())]
    else:
        expected = read_by_read(model, x, heat)
    for layer, power in zip(found.layers, expected, strict=False):
        assert layer.static_energy == pytest.approx(power / 3 * 20e-9, rel=1e-6, abs=0)


def test_an_ideal_models_energy_is_v_squared_g() -> None:
    model, x = on(IdealEmulator()), images()
    expected = read_by_read(model, x, lambda drive, cells: (drive.square() @ cells).sum(-1))
    for layer, power in zip(costs(model, x).layers, expected, strict=True):
        assert layer.static_energy == pytest.approx(power / 3 * 100e-9, rel=1e-5, abs=0)


def test_energies_of_circuit_and_surrogate() -> None:
    """The circuit's is exact; the surrogate's own currents are off by less than the bound on the estimate."""
    x = images(2)
    circuit = on(CircuitEmulator(CROSSBAR, tol=1e-5))
    found = costs(circuit, x)
    point = read_by_read(circuit, x, lambda drive, cells: CROSSBAR.operating_point(drive, cells, tol=1e-8).power)
    for layer, power in zip(found.layers, point, strict=True):
        assert layer.static_energy == pytest.approx(power / 2 * 100e-9, rel=1e-4, abs=0)
    assert found.exact_energy
    surrogate = costs(on(SurrogateEmulator("physics", CROSSBAR)), x)
    assert not surrogate.exact_energy
    assert "estimated from column currents" in str(surrogate)
    for mine, exact in zip(surrogate.layers, found.layers, strict=True):
        assert mine.static_energy == pytest.approx(exact.static_energy, rel=4e-3, abs=0)
        assert mine.static_energy != exact.static_energy


def test_few_vectors_stand_for_all() -> None:
    model, x = on(LinearEmulator(CROSSBAR)), images(8)
    whole, part = costs(model, x), costs(model, x, energy_vectors=50)
    assert part.static_energy == costs(model, x, energy_vectors=50).static_energy
    assert part.static_energy != whole.static_energy
    assert part.layer("0").static_energy == pytest.approx(whole.layer("0").static_energy, rel=0.1, abs=0)
    # The linear layer has 8 vectors, all of which are taken.
    assert part.layer("3") == whole.layer("3")
    assert part.array_reads == whole.array_reads
    # They are drawn from all of them: here the first half carries nothing.
    x[:4] = 0
    late = costs(model, x, energy_vectors=100).layer("0").static_energy
    assert late == pytest.approx(costs(model, x).layer("0").static_energy, rel=0.3, abs=0)


@pytest.mark.parametrize("bytes_at_once", [40_000, 1])
def test_large_layers_are_measured_in_pieces(bytes_at_once: int) -> None:
    model, x = on(LinearEmulator(CROSSBAR), dtype=torch.float64), images()
    whole = costs(model, x)
    with workspace_limit(bytes_at_once):
        assert costs(model, x).static_energy == pytest.approx(whole.static_energy, rel=1e-12, abs=0)


class Twice(nn.Module):
    """One layer called twice, once by keyword, and another never."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(input=self.layer(x))


def test_every_call_of_a_layer_counts() -> None:
    model = convert(Twice(), ARCH, IdealEmulator())
    found = costs(model, torch.rand(5, 4))
    assert [layer.vectors for layer in found.layers] == [2, 0]
    assert found.layer("idle").static_energy == 0
    assert found.layer("layer").static_energy > 0


def test_the_model_stays_as_it_was() -> None:
    """Also a noisy one, whose generators go on from read to read; the noise itself is not in the energy."""
    x = images()
    quiet = on(LinearEmulator(CROSSBAR))
    noisy = vary(quiet, Variations(read_noise=ReadNoise(relative=0.2)), seed=3)
    again = vary(quiet, Variations(read_noise=ReadNoise(relative=0.2)), seed=3)
    found = costs(noisy, x)
    assert torch.equal(noisy(x), again(x))
    assert found.layer("0").static_energy == pytest.approx(costs(quiet, x).layer("0").static_energy, rel=1e-5, abs=0)
    # Nor is it where energies come from the currents.
    surrogate = on(SurrogateEmulator("physics-fast", CROSSBAR))
    found = costs(vary(surrogate, Variations(read_noise=ReadNoise(relative=0.2)), seed=3), x)
    assert found.layer("0").static_energy == pytest.approx(
        costs(surrogate, x).layer("0").static_energy, rel=1e-5, abs=0
    )
    assert not any(module._forward_pre_hooks for module in noisy.modules())
    trainable = on(LinearEmulator(CROSSBAR), trainable=True)
    assert costs(trainable, x) == costs(quiet, x)


def test_costs_are_readable_and_json_ready() -> None:
    found = costs(on(IdealEmulator()), images())
    told = json.loads(json.dumps(found.to_dict()))
    assert Costs.from_dict(told) == found
    assert told["array_reads"] == found.array_reads
    assert told["layers"][1]["name"] == "3"
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "layout", "arrays", "vectors", "reads", "conversions", "static", "energy"]
    assert lines[1].split()[:6] == ["0", "block_diagonal", "4", "25", "200", "400"]
    assert lines[3].split()[:5] == ["all", "32", "26", "312", "1,016"]
    assert lines[-1] == "for one image, averaged over 3; 100 ns per read; energy of the circuit"
    assert geniex.costs is costs
    with pytest.raises(InputError, match="it must be a layer on crossbars: '0', '3'"):
        found.layer("1")


def test_what_cannot_be_counted_is_named() -> None:
    model, x = on(IdealEmulator()), images()
    with pytest.raises(InputError, match="no layer on crossbars"):
        costs(network(), x)
    for time in (0.0, -1e-9, float("nan")):
        with pytest.raises(InputError, match=r"read_time: .* s"):
            costs(model, x, read_time=time)
    with pytest.raises(InputError, match=r"images: got \(0, 2, 5, 5\); it must be a batch of one or more"):
        costs(model, x[:0])
    with pytest.raises(InputError, match="images: got a function"):
        costs(model, lambda m: m(x))
    with FakeTensorMode(), pytest.raises(InputError, match="with values"):
        costs(model, torch.empty(3, 2, 5, 5))
    with pytest.raises(InputError, match="energy_vectors"):
        costs(model, x, energy_vectors=0)
