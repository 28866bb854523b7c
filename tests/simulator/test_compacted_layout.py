"""T: a compacted layer gives the very integers of the uncompacted one, on fewer tiles."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import IdealEmulator, LinearEmulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import OFFSETS, Architecture, Arrangement, CompactedTiles
from geniex.simulator import (
    CrossbarMatrix,
    LayerRule,
    convert,
    dry_run,
    find_crossbar_matrices,
    load_converted,
    read_weight,
    save_converted,
    to_digital,
    vary,
)
from geniex.variation import StuckCells, Variations

ARCH = Architecture(tile=(8, 14), weight_bits=6, input_bits=6, slice_bits=3, stream_bits=3)
"""Seven outputs of two slices on a tile."""
WIRED = LinearEmulator(Crossbar(8, 14, r_wire_row=40.0, r_wire_col=25.0, r_source=200.0))
SCHEMES = [
    {"weight_scheme": weights, "offset": offset}
    for weights in ("differential", "offset", "twos_complement")
    for offset in OFFSETS
    if (weights, offset) != ("twos_complement", "analog_difference")
]


class ReadIdeal(IdealEmulator):
    """Insists on being read."""

    def response(self, array: Any) -> Any:
        """None."""
        return None


def kept(way: str, outputs: int = 17, inputs: int = 30, seed: int = 0) -> Tensor:
    """bool: what a pruning leaves, of which the way takes most advantage."""
    drawn = torch.Generator().manual_seed(seed)
    if way == "matrix":
        return (torch.rand(outputs, 1, generator=drawn) < 0.4) & (torch.rand(1, inputs, generator=drawn) < 0.4)
    if way == "columns":
        bands = torch.rand(outputs, -(-inputs // 8), generator=drawn) < 0.3
        return bands.repeat_interleave(8, 1)[:, :inputs]
    bands = torch.rand(-(-outputs // 7), inputs, generator=drawn) < 0.2
    return bands.repeat_interleave(7, 0)[:outputs]


def sparse_network(way: str) -> Any:
    """A convolution and two linear layers with zeros, in evaluation mode."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 17, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(68, 17), nn.Linear(17, 4))
    with torch.no_grad():
        net[0].weight *= kept(way, 17, 27).reshape(17, 3, 3, 3)
        net[3].weight *= kept(way, 17, 68, seed=1)
    return net.eval()


IMAGES = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1)) - 0.3


@pytest.mark.parametrize("way", ["matrix", "columns", "rows"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("emulator", [IdealEmulator(), ReadIdeal()], ids=["product", "read"])
def test_integers_are_the_same(way: str, scheme: dict, emulator: IdealEmulator) -> None:
    arch = ARCH.replace(**scheme)
    arch = arch.replace(tile=(8, 7 * arch.slices + arch.bias_cols + (arch.offset == "reference_column")))
    net = sparse_network(way)
    plain, compacted = (convert(net, arch, emulator, calibration=IMAGES, layout=at) for at in ("dense", "compacted"))
    assert torch.equal(compacted(IMAGES), plain(IMAGES))
    for name, matrix in find_crossbar_matrices(compacted).items():
        other = find_crossbar_matrices(plain)[name]
        assert isinstance(matrix.layout, CompactedTiles)
        # float32 conductances do not hold level 0 exactly.
        torch.testing.assert_close(read_weight(matrix), read_weight(other), rtol=0, atol=1e-8)
        x = torch.rand(5, matrix.layout.inputs) - 0.5
        assert torch.equal(matrix(x), other(x))


@pytest.mark.parametrize("way", ["matrix", "columns", "rows"])
def test_fewer_arrays_are_counted_and_programmed(way: str) -> None:
    net = sparse_network(way)
    compacted = convert(net, ARCH, IdealEmulator(), calibration=IMAGES, layout="compacted")
    report = compacted.conversion
    for name, index in (("0", 0), ("3", 3)):
        weight = net[index].weight.flatten(1)
        tiles = compacted[index].matrix.conductances.shape[0]
        assert report.layer(name).arrays == 2 * tiles
        assert report.layer(name).grid_arrays == 2 * -(-weight.shape[0] // 7) * -(-weight.shape[1] // 8)
        assert tiles < report.layer(name).grid_arrays / 2
        assert report.layer(name).compression == report.layer(name).grid_arrays / report.layer(name).arrays
    assert report.compression == sum(x.grid_arrays for x in report.layers) / report.arrays
    dry = dry_run(net, ARCH, IdealEmulator(), example=IMAGES, layout="compacted")
    assert [x.arrays for x in dry.layers] == [x.arrays for x in report.layers]
    assert [x.utilisation for x in dry.layers] == [x.utilisation for x in report.layers]


def test_compression_by_hand() -> None:
    """Columns: bands with 8, 0 and 7 outputs take 2 + 0 + 1 tiles in place of 3 x 3."""
    weight = torch.zeros(15, 24)
    weight[:8, 3] = weight[8:, 20] = 1.0
    done = convert(_linear(weight), ARCH, IdealEmulator(), calibration=torch.rand(2, 24), layout="compacted")
    # The matrix has 2 inputs and 15 outputs that are not 0: one row of 3 tiles. Rows: 1, 2 and 1 inputs: 3 tiles.
    assert done.conversion.layer("0").compression == 3.0
    # 30 of the kept weights' cells: 15 outputs of 2 inputs on 3 tiles of 8 x 14.
    assert done.conversion.layer("0").utilisation == pytest.approx(30 * 2 / (3 * 8 * 14))
    nothing = nn.Sequential(nn.Linear(24, 15))
    nn.init.zeros_(nothing[0].weight)
    done = convert(nothing, ARCH, IdealEmulator(), calibration=torch.rand(2, 24), layout="compacted")
    assert done.conversion.arrays == 2
    assert torch.equal(done(torch.rand(3, 24)), nothing[0].bias.expand(3, -1))


def test_what_is_not_zero_is_not_compacted() -> None:
    net = nn.Sequential(nn.Linear(24, 15))
    seen = torch.rand(2, 24)
    plain, compacted = (convert(net, ARCH, WIRED, calibration=seen, layout=at) for at in ("dense", "compacted"))
    assert compacted.conversion.compression == 1.0
    # The same tiles, on the same circuit.
    x = torch.rand(5, 24)
    assert torch.equal(compacted(x), plain(x))


def test_word_lines_carry_what_is_on_them() -> None:
    """On wires the compacted tiles are other tiles: each is read as the dense matrix that is on it."""
    net = sparse_network("rows")
    arch = ARCH.replace(adc_rounding="none", adc_bits=None, accumulator_bits=None)
    compacted = convert(net, arch, WIRED, calibration=IMAGES, layout="compacted")
    matrix = compacted[3].matrix
    x = torch.rand(5, 68)
    total = torch.zeros(5, 17, dtype=torch.float64)
    weight = net[3].weight.detach()
    for ins, outs in zip(matrix.layout.inputs_of, matrix.layout.outputs_of, strict=True):
        part = torch.zeros(7, 8)
        real_in, real_out = ins[ins < 68], outs[outs < 17]
        part[: len(real_out), : len(real_in)] = weight[real_out][:, real_in]
        scales = {"weight_frac_bits": matrix.weight_frac_bits, "input_frac_bits": matrix.input_frac_bits}
        alone = CrossbarMatrix(part, arch.replace(**scales), WIRED)
        seen = torch.zeros(5, 8)
        seen[:, : len(real_in)] = x[:, real_in]
        total[:, real_out] += alone(seen)[:, : len(real_out)].double()
    torch.testing.assert_close(matrix(x).double(), total, rtol=1e-5, atol=1e-6)
    assert (matrix(x) - x @ weight.T).abs().max() > 1e-3


@pytest.mark.parametrize("way", ["matrix", "columns", "rows"])
def test_every_weight_is_found(way: str) -> None:
    weight = torch.randn(17, 30) * kept(way)
    matrix = convert(_linear(weight), ARCH, IdealEmulator(), calibration=torch.rand(2, 30), layout="compacted")[
        0
    ].matrix
    codes = ARCH.window.to_code(matrix.conductances, 8)
    for output, input in kept(way).nonzero().tolist():
        tile, col_tile, row, cols = matrix.locate(output, input)
        assert col_tile == 0
        digits = [codes[tile, :, 0, row, col] for col in cols]
        value = float((digits[0] * 8 + digits[1]) @ torch.tensor([1, -1]))
        assert value == torch.round(weight[output, input] * 2.0**matrix.weight_frac_bits)
    gone = (~matrix.layout.held).nonzero()[0].tolist()
    with pytest.raises(InputError, match=r"no tile holds its weight .* which is 0"):
        matrix.locate(*gone)
    with pytest.raises(InputError, match="between 0 and 16"):
        matrix.locate(17, 0)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    net = sparse_network("columns")
    for trainable in (False, True):
        compacted = convert(net, ARCH, WIRED, calibration=IMAGES, layout="compacted", trainable=trainable)
        save_converted(compacted, tmp_path / "net")
        again = load_converted(tmp_path / "net", net)
        assert torch.equal(again(IMAGES), compacted(IMAGES))
        assert again.conversion == compacted.conversion
        for name, matrix in find_crossbar_matrices(compacted).items():
            assert torch.equal(find_crossbar_matrices(again)[name].layout.inputs_of, matrix.layout.inputs_of)


def test_weights_that_are_left_out_stay_zero_in_training() -> None:
    net = sparse_network("columns")
    compacted = convert(net, ARCH, IdealEmulator(), calibration=IMAGES, layout="compacted", trainable=True)
    optimizer = torch.optim.SGD(compacted.parameters(), lr=0.1)
    compacted(IMAGES).square().sum().backward()
    for matrix in find_crossbar_matrices(compacted).values():
        assert not matrix.weight.grad[~matrix.layout.held].any()
        assert matrix.weight.grad[matrix.layout.held].any()
    optimizer.step()
    back = to_digital(compacted)
    for before, after in zip(net.parameters(), back.parameters(), strict=True):
        if before.dim() > 1:
            assert not after.flatten(1)[~compacted_held(compacted, before)].any()


def test_ideal_gradients_do_not_reach_what_is_left_out() -> None:
    net = sparse_network("columns")
    compacted = convert(net, ARCH, IdealEmulator(), calibration=IMAGES, layout="compacted", trainable=True)
    for matrix in find_crossbar_matrices(compacted).values():
        matrix.gradients = "ideal"
    compacted(IMAGES).square().sum().backward()
    for matrix in find_crossbar_matrices(compacted).values():
        assert not matrix.weight.grad[~matrix.layout.held].any()
        assert matrix.weight.grad[matrix.layout.held].any()


def compacted_held(model: Any, weight: Tensor) -> Tensor:
    found = {m.layout.held.shape: m.layout.held for m in find_crossbar_matrices(model).values()}
    return found[weight.flatten(1).shape]


def test_gradients_are_those_of_the_uncompacted_one() -> None:
    net = sparse_network("rows")
    grads = []
    for layout in ("dense", "compacted"):
        model = convert(net, ARCH, ReadIdeal(), calibration=IMAGES, layout=layout, trainable=True)
        images = IMAGES.clone().requires_grad_()
        model(images).square().sum().backward()
        masks = [m.layout.held if layout == "compacted" else 1 for m in find_crossbar_matrices(model).values()]
        grads.append((images.grad, [m.weight.grad for m in find_crossbar_matrices(model).values()], masks))
    (a, weights_a, _), (b, weights_b, masks) = grads
    torch.testing.assert_close(a, b)
    for one, other, mask in zip(weights_a, weights_b, masks, strict=True):
        torch.testing.assert_close(one * mask, other)


def test_bit_lines_and_outputs_can_be_moved() -> None:
    net = sparse_network("columns")
    model = convert(net, ARCH, ReadIdeal(), calibration=IMAGES, layout="compacted")
    before, matrix = model(IMAGES), model[3].matrix
    rows = matrix.layout.order_rows
    cells = matrix.conductances.clone()
    for outputs in (torch.randperm(17), torch.stack([torch.randperm(17) for _ in range(rows)])):
        matrix.arrange(Arrangement.of(outputs=outputs, lines=torch.randperm(14)))
        assert torch.equal(model(IMAGES), before)
        assert not torch.equal(matrix.conductances, cells)
        assert torch.equal(matrix.conductances.flatten().sort().values, cells.flatten().sort().values)
    with pytest.raises(InputError, match="the natural order of inputs"):
        matrix.arrange(Arrangement.of(inputs=torch.randperm(68)))


def test_outputs_of_a_row_lie_in_the_order_given() -> None:
    weight = torch.zeros(9, 16)
    weight[:, :8] = 1.0
    weight[2:5, 8:] = 1.0
    model = convert(_linear(weight), ARCH, IdealEmulator(), calibration=torch.rand(2, 16), layout="compacted")
    matrix = model[0].matrix
    assert matrix.layout.outputs_of.tolist() == [[0, 1, 2, 3, 4, 5, 6], [7, 8, *[9] * 5], [2, 3, 4, *[9] * 4]]
    backward = list(range(9))[::-1]
    matrix.arrange(Arrangement.of(outputs=[backward, [3, 4, 2, *range(2), *range(5, 9)]]))
    there = matrix.layout._outputs_there.tolist()
    assert there == [[8, 7, 6, 5, 4, 3, 2], [1, 0, *[9] * 5], [3, 4, 2, *[9] * 4]]
    assert matrix.locate(0, 0)[:3] == (1, 0, 0)


def test_variation_and_moving_keep_the_maps() -> None:
    model = convert(sparse_network("columns"), ARCH, WIRED, calibration=IMAGES, layout="compacted")
    stuck = vary(model, Variations((StuckCells(off=0.0, on=1.0),)))  # W+ and W- alike: nothing is left
    assert not stuck[0](IMAGES).any()
    wide, images = copy.deepcopy(model).double(), IMAGES.double()
    torch.testing.assert_close(wide(images), model(IMAGES).double(), rtol=1e-4, atol=1e-4)
    assert torch.equal(wide[0].matrix.layout.inputs_of, model[0].matrix.layout.inputs_of)


def test_one_bit_weights_are_refused() -> None:
    arch = ARCH.replace(weight_bits=1, slice_bits=1)
    with pytest.raises(ConversionError, match="no 0 to leave out"):
        convert(_linear(torch.randn(4, 8)), arch, IdealEmulator(), calibration=torch.rand(2, 8), layout="compacted")


def test_it_is_a_layers_own_choice() -> None:
    net = sparse_network("columns")
    model = convert(net, ARCH, IdealEmulator(), calibration=IMAGES, per_layer={"3": LayerRule(layout="compacted")})
    kinds = {name: isinstance(m.layout, CompactedTiles) for name, m in find_crossbar_matrices(model).items()}
    assert [name for name, compacted in kinds.items() if compacted] == ["3.matrices.0"]


def _linear(weight: Tensor) -> Any:
    net = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    net[0].weight.data = weight
    return net
