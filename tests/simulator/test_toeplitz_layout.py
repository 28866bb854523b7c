"""Layout "toeplitz": the very integers of torch's convolution and of the dense layout, from one read a map."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.cells import LinearCell
from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import OFFSETS, Architecture, Arrangement
from geniex.networks.fashion import FashionCNN
from geniex.simulator import (
    CrossbarConv,
    CrossbarMatrix,
    LayerRule,
    convert,
    dry_run,
    find_crossbar_matrices,
    load_converted,
    read_weight,
    replace_emulator,
    save_converted,
    to_digital,
    vary,
)
from geniex.variation import StuckCells, Variations

ARCH = Architecture(
    tile=(12, 11), weight_bits=6, input_bits=6, weight_frac_bits=4, input_frac_bits=3, slice_bits=3, stream_bits=3
)
EXACT = ARCH.replace(adc_bits=None, accumulator_bits=None)
SCHEMES = [
    (scheme, offset)
    for scheme, offset in itertools.product(("differential", "offset", "twos_complement"), OFFSETS)
    if (scheme, offset) != ("twos_complement", "analog_difference")
]
CASES: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (nn.Conv2d, {}),
    (nn.Conv2d, {"stride": 2, "padding": 1}),
    (nn.Conv2d, {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 2), "bias": False}),
    (nn.Conv2d, {"padding": "same", "padding_mode": "reflect"}),
    (nn.Conv2d, {"padding": 1, "padding_mode": "circular", "stride": 3}),
    (nn.Conv2d, {"padding": (1, 2), "padding_mode": "replicate", "groups": 2}),
    (nn.Conv2d, {"groups": 4, "stride": 2, "padding": 1, "dilation": 2}),
    (nn.Conv1d, {"stride": 2, "padding": 1}),
    (nn.Conv1d, {"padding": "same", "groups": 4, "padding_mode": "circular"}),
    (nn.Conv3d, {"padding": (1, 0, 1), "stride": (1, 2, 1)}),
    (nn.ConvTranspose2d, {"stride": 2, "padding": 1, "output_padding": 1}),
    (nn.ConvTranspose1d, {"stride": 3, "output_padding": 2, "dilation": 3, "groups": 2}),
]


class ReadIdeal(IdealEmulator):
    """Insists on being read."""

    def response(self, array: Any) -> Any:
        """None."""
        return None


def case(kind: type[nn.Module], options: dict[str, Any]) -> tuple[Any, Tensor]:
    """A layer and two maps of whole numbers of sixteenths and eighths, which 6 bits hold."""
    torch.manual_seed(0)
    dims = int(kind.__name__[-2])
    layer = kind(4, 8, (3, 2, 2)[:dims], **options).double().eval()
    layer.weight.data = torch.randint(-31, 32, layer.weight.shape).double() / 16
    if layer.bias is not None:
        layer.bias.data = torch.randint(-31, 32, layer.bias.shape).double() / 16
    return layer, torch.randint(-31, 32, (2, 4, *(6, 7, 4)[:dims])).double() / 8


def on(layer: nn.Module, arch: Architecture, x: Tensor, layout: Any = "toeplitz", emulator: Any = None) -> Any:
    return convert(layer, arch, emulator or IdealEmulator(), calibration=x, layout=layout, dtype=torch.float64)


@pytest.mark.parametrize("emulator", [IdealEmulator(), ReadIdeal()], ids=["collapsed", "read"])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_integers_are_torchs(kind: type[nn.Module], options: dict[str, Any], emulator: Emulator) -> None:
    layer, x = case(kind, options)
    for arch in (EXACT, EXACT.replace(stream_bits=1), ARCH.replace(adc_bits=12, accumulator_bits=40)):
        converted = on(layer, arch, x, emulator=emulator)
        assert torch.equal(converted(x), layer(x))
        assert torch.equal(converted(x[0]), layer(x[0]))
        assert len(converted.matrices) == 1


@pytest.mark.parametrize(("scheme", "offset"), SCHEMES)
def test_integers_are_those_of_the_dense_layout(scheme: Any, offset: Any) -> None:
    """Every scheme, read and collapsed; and on a circuit that is ideal, whose currents a full ADC rounds."""
    layer, x = case(nn.Conv2d, {"groups": 2, "stride": 2, "padding": 1})
    x = x.abs()
    arch = EXACT.replace(weight_scheme=scheme, offset=offset, tile=(12, 14))
    circuit = CircuitEmulator(Crossbar(12, 14, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=LinearCell()))
    for emulator in IdealEmulator(), ReadIdeal(), circuit:
        dense = on(layer, arch, x, "dense", emulator)
        assert torch.equal(on(layer, arch, x, "toeplitz", emulator)(x), dense(x))
        assert torch.equal(on(layer, arch, x, "block_diagonal", emulator)(x), dense(x))
        assert torch.equal(dense(x), layer(x))


@pytest.mark.parametrize("scheme", ["offset", "twos_complement", "differential"])
@pytest.mark.parametrize("inputs", ["passes", "unsigned", "twos_complement"])
@pytest.mark.filterwarnings("ignore::geniex.errors.ConversionWarning")
def test_one_bit_inputs_and_weights(scheme: Any, inputs: Any) -> None:
    """A sign alone is +1 where it is padded; one-bit weights have a 0 in all schemes but "differential"."""
    layer, x = case(nn.Conv2d, {"padding": 1})
    arch = EXACT.replace(
        weight_scheme=scheme, offset="ideal_after", input_bits=1, stream_bits=1, input_scheme=inputs, input_frac_bits=0
    )
    assert torch.equal(on(layer, arch, x)(x), on(layer, arch, x, "dense")(x))
    one = arch.replace(weight_bits=1, weight_frac_bits=0, slice_bits=1)
    if scheme == "differential":
        with pytest.raises(ConversionError, match="one-bit weights have no 0, which unrolling needs"):
            on(layer, one, x)
    else:
        assert torch.equal(on(layer, one, x)(x), on(layer, one, x, "dense")(x))


@pytest.mark.parametrize("settings", [{}, {"weight_scale": "channel", "input_scale": "tensor"}])
def test_scales_are_those_of_the_dense_layout(settings: dict[str, Any]) -> None:
    """Chosen from weights and from what is seen: here both see the same, with stride and padding."""
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 5, 3, stride=2, padding=1).double().eval(), torch.randn(4, 3, 7, 8, dtype=torch.float64)
    arch = EXACT.replace(weight_frac_bits=None, input_frac_bits=None, **settings)
    sparse, dense = on(layer, arch, x), on(layer, arch, x, "dense")
    assert sparse.matrix.input_frac_bits == dense.matrix.input_frac_bits
    assert sparse.matrix.non_negative == dense.matrix.non_negative
    assert torch.equal(sparse(x), dense(x))
    positive = on(layer, arch, x.abs())
    assert positive.matrix.non_negative
    assert torch.equal(positive(x.abs()), on(layer, arch, x.abs(), "dense")(x.abs()))


def test_unseen_inputs_choose_no_scale() -> None:
    layer, x = nn.Conv2d(1, 1, 1, stride=2).eval(), torch.rand(1, 1, 6, 6)
    x[..., 1::2, 1::2] = 1e3
    arch = EXACT.replace(input_frac_bits=None, weight_frac_bits=None)
    sparse, dense = on(layer, arch, x), on(layer, arch, x, "dense")
    assert sparse.matrix.input_frac_bits == dense.matrix.input_frac_bits == 5


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [{}, {"weight_scheme": "offset", "offset": "ideal_after"}], ids=["", "offset"])
@pytest.mark.filterwarnings("ignore::geniex.errors.ConversionWarning")
def test_every_tile_is_read_as_a_matrix_alone_would_be(scheme: dict[str, Any]) -> None:
    """Wires, an ADC of few codes and an accumulator that cuts off: sums of tiles are those of matrices of one tile."""
    layer, x = case(nn.Conv2d, {"padding": 1, "groups": 2, "bias": False})
    emulator = LinearEmulator(Crossbar(12, 11, r_wire=30.0))
    arch = ARCH.replace(adc_bits=6, adc_range="full_scale", accumulator_bits=14, accumulator_frac_bits=4, **scheme)
    converted = on(layer, arch, x, emulator=emulator)
    whole, inputs = read_weight(on(layer, arch, x).matrix), converted.matrix_inputs(x)
    per_tile, expected = arch.outputs_per_tile, torch.zeros(2, len(whole), dtype=torch.float64)
    for r, c in zip(converted.matrix.layout.row_of, converted.matrix.layout.col_of, strict=True):
        ins, outs = slice(12 * int(r), 12 * (int(r) + 1)), slice(per_tile * int(c), per_tile * (int(c) + 1))
        expected[:, outs] += CrossbarMatrix(whole[outs, ins], arch, emulator)(inputs[:, ins])
    got = converted(x)
    assert torch.equal(got.flatten(2).transpose(1, 2).flatten(1), expected)
    assert (got - layer(x)).abs().max() / layer(x).abs().max() > 1e-3


def test_adc_ranges_are_each_tiles_own() -> None:
    layer, x = case(nn.Conv1d, {"padding": 1})
    for granularity, columns in ("tile", 1), ("column", 11):
        arch = EXACT.replace(adc_bits=6, adc_range="calibrated", adc_granularity=granularity)
        converted = on(layer, arch, x, emulator=LinearEmulator(Crossbar(12, 11, r_wire=30.0)))
        matrix = converted.matrix
        assert matrix.adc_step.shape == (len(matrix.conductances), 1, 1, columns)
        reads = matrix.reads(converted.matrix_inputs(x))
        counts = (reads.actual[..., :1, :, :] - reads.actual[..., 1:, :, :]).abs() * arch.current_scale
        largest = counts.amax((0, 1) if granularity == "column" else (0, 1, 5), keepdim=granularity == "tile")
        largest = largest.reshape(matrix.adc_step.shape)
        assert (matrix.adc_step * 32 >= largest).all()
        assert (matrix.adc_step * 30 <= largest.clamp(min=31)).all()


def test_many_gaps_between_driven_tiles_change_nothing() -> None:
    """Word lines that are not driven leave tiles out of a read; beyond some gaps all in between are read."""
    torch.manual_seed(0)
    layer = nn.Conv1d(1, 2, 3).double().eval()
    layer.weight.data = torch.randint(-31, 32, layer.weight.shape).double() / 16
    x = torch.zeros(1, 1, 600, dtype=torch.float64)
    x[..., 5::24] = 1.0  # on every other row of tiles
    converted = on(layer, EXACT, x, emulator=ReadIdeal())
    assert torch.equal(converted(x), layer(x))
    reader = converted.matrix._reader(None)
    alive = [k % 2 == 0 for k in range(100)]
    assert reader.row_tiles(100, alive) == [slice(0, 99)]
    assert reader.row_tiles(10, alive) == [slice(k, min(k + 10, 99)) for k in range(0, 99, 10)]
    assert reader.row_tiles(100, alive[:20]) == [slice(k, k + 1) for k in range(0, 20, 2)]
    assert reader.row_tiles(100, [False] * 100) == []


def test_sums_that_float64_may_not_hold_are_read_tile_by_tile() -> None:
    """Of 64 products of 23 bits each: 2^52 on a tile, which collapses to one product; two tiles may pass 2^53."""
    wide = Architecture(weight_bits=24, input_bits=24, weight_frac_bits=0, input_frac_bits=0, slice_bits=12)
    wide = wide.replace(stream_bits=12, adc_bits=None, accumulator_bits=None)
    for inputs, collapses in (64, True), (192, False):
        weight = torch.full((1, inputs), 2.0**23 - 1, dtype=torch.float64)
        assert (CrossbarMatrix(weight, wide, IdealEmulator()).tiles.weights is not None) == collapses


@pytest.mark.parametrize("gradients", ["emulator", "ideal"])
@pytest.mark.parametrize("kind", [CASES[1], CASES[5], CASES[10]], ids=lambda value: value[0].__name__)
def test_gradients_are_torchs(kind: Any, gradients: Any) -> None:
    """Of inputs and of the one weight that all positions share: to the precision of 20 bits, straight through."""
    layer, x = case(*kind)
    fine = EXACT.replace(
        tile=(12, 40), weight_bits=20, input_bits=20, weight_frac_bits=15, input_frac_bits=15, slice_bits=1
    )
    converted = convert(layer, fine, IdealEmulator(), calibration=x, layout="toeplitz", trainable=True)
    converted.matrix.gradients = gradients
    assert converted.matrix.weight.shape == (8, layer.weight.numel() // 8)
    got, expected = [], []
    for model, weight, found in (
        (converted, converted.matrix.weight, got),
        (layer, layer.weight, expected),
    ):
        given = x.clone().requires_grad_()
        loss = model(given).square().sum()
        found.extend(torch.autograd.grad(loss, [given, weight, model.bias]))
    got[1] = converted.weight_to(layer, converted.packing.unblock([got[1]]))
    for mine, torchs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-3, atol=1e-3 * float(torchs.abs().max()))


def test_training_moves_the_kernel_and_comes_back_as_one() -> None:
    layer, x = case(nn.Conv2d, {"padding": 1, "groups": 2})
    converted = convert(layer, EXACT, IdealEmulator(), calibration=x, layout="toeplitz", trainable=True)
    assert torch.equal(to_digital(converted).weight, layer.weight)
    optimiser = torch.optim.SGD(converted.parameters(), lr=1e-4)
    before = converted(x).square().mean().item()
    for _ in range(3):
        optimiser.zero_grad()
        converted(x).square().mean().backward()
        optimiser.step()
    assert converted(x).square().mean().item() < before
    digital = to_digital(converted)
    assert isinstance(digital, nn.Conv2d)
    assert not torch.equal(digital.weight, layer.weight)
    again = on(digital, EXACT, x, "dense")
    torch.testing.assert_close(again(x), converted(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.filterwarnings("ignore::geniex.errors.ConversionWarning")
def test_a_loaded_model_computes_the_same(trainable: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    x = torch.rand(3, 1, 6, 6)
    emulator = LinearEmulator(Crossbar(12, 11, r_wire=20.0))
    saved = convert(model, ARCH, emulator, calibration=x, layout="toeplitz", trainable=trainable)
    path = save_converted(saved, tmp_path / "m")
    with torch.device("meta"):
        shell = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    loaded = load_converted(path, shell)
    assert torch.equal(loaded(x), saved(x))
    assert loaded.conversion == saved.conversion
    assert {k: m.layout for k, m in find_crossbar_matrices(loaded).items()} == {
        k: m.layout for k, m in find_crossbar_matrices(saved).items()
    }
    told = json.loads(path.read_text())["layers"]
    assert (told["0"]["layout"], told["0"]["map_size"]) == ("toeplitz", [6, 6])
    assert (told["3"]["layout"], told["3"]["map_size"]) == ("dense", None)
    wide = loaded.double()
    assert wide(x.double()).dtype == torch.float64


def test_other_physics_and_devices_reach_every_tile() -> None:
    layer, x = case(nn.Conv2d, {"padding": 1})
    ideal = on(layer, EXACT, x)
    wired = replace_emulator(ideal, LinearEmulator(Crossbar(12, 11, r_wire=20.0)))
    assert not torch.equal(wired(x), ideal(x))
    assert torch.equal(replace_emulator(wired, IdealEmulator())(x), ideal(x))
    stuck = vary(ideal, Variations((StuckCells(off=0.0, on=1.0),)))
    assert torch.equal(stuck(x), stuck(torch.zeros_like(x)))
    # What the conductances stand for is the whole matrix.
    (matrix,) = find_crossbar_matrices(ideal).values()
    whole = read_weight(matrix)
    got = ideal.matrix_inputs(x).double() @ whole.T
    expected = F.conv2d(x, layer.weight, padding=1).flatten(2).transpose(1, 2).flatten(1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_bit_lines_can_be_moved_inputs_and_outputs_cannot() -> None:
    layer, x = case(nn.Conv2d, {"padding": 1})
    for emulator in (IdealEmulator(), ReadIdeal()):
        converted = on(layer, EXACT.replace(weight_scheme="offset"), x, emulator=emulator)
        before, here = converted(x), converted.matrix.conductances.clone()
        order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
        converted.matrix.arrange(Arrangement.of(lines=order))
        assert torch.equal(converted.matrix.conductances, here[..., order])
        assert torch.equal(converted(x), before)
    with pytest.raises(InputError, match="an unrolled convolution keeps inputs and outputs by position"):
        converted.matrix.arrange(Arrangement.of(outputs=range(converted.matrix.layout.outputs)))


def test_forward_keeps_to_one_device_under_fake_cuda() -> None:
    for scheme, emulator in itertools.product(("differential", "offset"), (IdealEmulator, ReadIdeal)):
        arch = Architecture.puma(tile=(32, 32), weight_scheme=scheme)
        with FakeTensorMode(), torch.device("cuda"):
            conv = CrossbarConv(
                nn.Conv2d(2, 4, 3, stride=3, groups=2), arch, emulator(), layout="toeplitz", map_size=(8, 9)
            )
            out = conv(torch.empty(3, 2, 8, 9))
            again = nn.Conv2d(1, 4, 3, stride=2, padding=1, padding_mode="circular")
            again = CrossbarConv(again, arch, emulator(), layout="toeplitz", map_size=(8, 8), trainable=True)
            trained = again(torch.empty(3, 1, 8, 8, requires_grad=True))
        assert (out.shape, out.device.type, out.dtype) == ((3, 4, 2, 3), "cuda", torch.float32)
        assert (trained.shape, trained.device.type) == ((3, 4, 4, 4), "cuda")


def test_other_maps_are_refused_by_name() -> None:
    conv, x = case(nn.Conv2d, {"padding": 1})
    model = nn.Sequential(conv, nn.ReLU())
    converted = on(model, EXACT, x)
    with pytest.raises(InputError, match=r"input: got maps of \(6, 8\); this convolution is unrolled for .*\(6, 7\)"):
        converted(torch.zeros(1, 4, 6, 8, dtype=torch.float64))
    with pytest.raises(
        ConversionError, match=r"layer '0': .*of one size, but this layer gets maps of \(6, 7\) and of \(6, 6\)"
    ):
        on(model, EXACT, [x, x[..., :6]])  # type: ignore[arg-type]
    with pytest.raises(
        ConversionError, match=r"layer '0': map_size: got None; layout 'toeplitz' needs the size of the maps"
    ):
        convert(model, EXACT, IdealEmulator(), layout="toeplitz")
    with pytest.raises(ConversionError, match=r"layer '0': .*needs the size of its maps: give an example"):
        dry_run(model, EXACT, IdealEmulator(), layout="toeplitz")
    with pytest.raises(ConversionError, match=r"layer '0': map size: got \(6,\); it must be the 2 whole numbers"):
        convert(model, EXACT, IdealEmulator(), per_layer={"0": LayerRule(layout="toeplitz", map_size=(6,))})
    with pytest.raises(InputError, match=r"map size: .*whole numbers"):
        LayerRule(layout="toeplitz", map_size=(6, 0))
    up, y = case(nn.ConvTranspose2d, {"stride": 2})
    on(up, EXACT, y)(y)
    with pytest.raises(InputError, match=r"output_size: .*an unrolled convolution gives maps of one size"):
        on(up, EXACT, y)(y, output_size=[14, 15])


def test_rules_choose_layers() -> None:
    conv, x = case(nn.Conv2d, {"padding": 1})
    model = nn.Sequential(conv, nn.Conv2d(8, 2, 3).double(), nn.Flatten(), nn.Linear(2 * 24, 3).double()).eval()

    def sparse(per_layer: dict[str, LayerRule], layout: Any = "dense") -> list[bool]:
        report = dry_run(model, EXACT, IdealEmulator(), example=x, per_layer=per_layer, layout=layout)
        return [layer.vectors == 1 for layer in report.layers]

    rule = LayerRule(layout="toeplitz")
    assert sparse({}) == [False, False, True]
    assert sparse({}, "toeplitz") == [True, True, True]
    assert sparse({"1": rule}) == [False, True, True]
    assert sparse({"*": LayerRule(layout="toeplitz", map_size=(6, 7)), "1": LayerRule(layout="dense")}) == [
        True,
        False,
        True,
    ]
    with pytest.raises(ConversionError, match=r"per_layer\['3'\]: a Linear has no positions to unroll"):
        sparse({"3": rule})
    with pytest.raises(
        ConversionError, match=r"per_layer\['0'\]: map_size is only for convolutions with layout 'toeplitz'"
    ):
        sparse({"0": LayerRule(map_size=(6, 7))})
    with pytest.raises(
        ConversionError, match=r"maps of one size, but this layer gets maps of \(5, 5\) and of \(6, 7\)"
    ):
        sparse({"0": LayerRule(layout="toeplitz", map_size=(5, 5))})


def test_the_fashion_networks_layers_fit_and_count_what_they_leave_out() -> None:
    """16-bit weights in four slices, 16 outputs on a tile of 64 x 64. First layer: 196 positions of 16 channels on
    196 column tiles, each of five rows of 28 inputs, those of which it sees from the first to the last: 117 inputs,
    on two or three row tiles of 64."""
    torch.manual_seed(0)
    model, x = FashionCNN(batch_norm=False).eval(), torch.rand(2, 1, 28, 28)
    arch = Architecture(weight_frac_bits=13, input_frac_bits=12, adc_bits=None, accumulator_bits=None)
    sparse = convert(model, arch, IdealEmulator(), calibration=x, layout="toeplitz")
    dense = convert(model, arch, IdealEmulator(), calibration=x)
    assert torch.equal(sparse(x), dense(x))
    report, dry = sparse.conversion, dry_run(model, arch, IdealEmulator(), example=x, layout="toeplitz")
    for name, grid in {"conv1": (13, 196), "conv2": (49, 98), "conv3": (25, 64)}.items():
        layer = report.layer(name)
        assert (layer.row_tiles, layer.col_tiles) == grid
        assert layer.grid_arrays == 2 * grid[0] * grid[1]
        assert layer.arrays < 0.21 * layer.grid_arrays
        assert (dry.layer(name).arrays, dry.layer(name).vectors) == (layer.arrays, 1)
        assert dry.layer(name).bytes == pytest.approx(layer.bytes, rel=0.1)
    # By hand: the row tiles from the first to the last input that a position sees, less those that it skips.
    tiles = 0
    for y, across in itertools.product(range(14), range(14)):
        rows = [r for r in range(2 * y - 2, 2 * y + 3) if 0 <= r < 28]
        cols = [c for c in range(2 * across - 2, 2 * across + 3) if 0 <= c < 28]
        tiles += len({(28 * r + c) // 64 for r in rows for c in cols})
    assert report.layer("conv1").arrays == 2 * tiles
    assert report.layer("classifier") == dense.conversion.layer("classifier")
