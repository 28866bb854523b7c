"""Matrices with inputs, outputs and bit lines in other places: what stays the same, and what the wires make of it."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.cells import LinearCell
from geniex.circuit import Crossbar
from geniex.emulator import Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import InputError
from geniex.mapping import OFFSETS, Architecture, Arrangement
from geniex.simulator import (
    CrossbarConv,
    CrossbarLinear,
    CrossbarMatrix,
    InputStatistics,
    convert,
    find_crossbar_matrices,
)

SCHEMES = [
    {"weight_scheme": weights, "offset": offset}
    for weights in ("differential", "offset", "twos_complement")
    for offset in OFFSETS
    if (weights, offset) != ("twos_complement", "analog_difference")
]
OUTPUTS, INPUTS, COLS = 11, 20, 14
WIRED = Crossbar(8, COLS, r_wire_row=10.0, r_wire_col=4.0, r_source=300.0)
ARCH = Architecture(tile=(8, COLS), weight_bits=6, input_bits=6, slice_bits=3, stream_bits=3, adc_bits=12)
WEIGHT = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(0))
X = torch.randn(9, INPUTS, generator=torch.Generator().manual_seed(1))
VECTORS = torch.rand(12, INPUTS, generator=torch.Generator().manual_seed(2))


class ReadIdeal(IdealEmulator):
    """Insists on being read."""

    def response(self, array: Any) -> Any:
        """None."""
        return None


EMULATORS: dict[str, Emulator] = {
    "ideal": IdealEmulator(),
    "read": ReadIdeal(),
    "linear": LinearEmulator(WIRED),
    "physics": SurrogateEmulator("physics-fast", WIRED),
}


def seen(x: Tensor) -> InputStatistics:
    statistics = InputStatistics()
    statistics.add(x)
    return statistics


def shuffled(*names: str, seed: int = 3, sizes: tuple[int, int, int] = (OUTPUTS, INPUTS, COLS)) -> Arrangement:
    generator = torch.Generator().manual_seed(seed)
    orders = {
        name: torch.randperm(size, generator=generator)
        for name, size in zip(("outputs", "inputs", "lines"), sizes, strict=True)
    }
    return Arrangement.of(**{name: orders[name] for name in names or orders})


def shuffled_for(matrix: CrossbarMatrix, seed: int = 3) -> Arrangement:
    layout = matrix.layout
    return shuffled(seed=seed, sizes=(layout.outputs, layout.inputs, matrix.architecture.tile[1]))


def made(emulator: str | Emulator = "ideal", **options: Any) -> CrossbarMatrix:
    chosen = EMULATORS[emulator] if isinstance(emulator, str) else emulator
    kept = {name: options.pop(name) for name in ("inputs", "trainable", "dtype") if name in options}
    return CrossbarMatrix(WEIGHT, ARCH.replace(**options), chosen, **{"inputs": 2.0, **kept})


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("emulator", ["ideal", "read"])
@pytest.mark.parametrize("options", [{}, {"weight_scale": "channel", "stream_bits": 1}], ids=["", "channel"])
def test_ideal_products_do_not_depend_on_the_places(scheme: dict[str, str], emulator: str, options: Any) -> None:
    matrix = made(emulator, **scheme, **options)
    before = matrix(X)
    matrix.arrange(shuffled())
    assert torch.equal(matrix(X), before)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("emulator", ["ideal", "read"])
def test_a_clipping_adc_clips_the_same_sums_on_any_bit_line(scheme: dict[str, str], emulator: str) -> None:
    matrix = made(emulator, **scheme, adc_bits=5)
    before = matrix(X)
    assert not torch.equal(before, made(**scheme)(X)), "it must clip"
    matrix.arrange(shuffled("outputs", "lines"))
    assert torch.equal(matrix(X), before)
    # Other inputs share a tile: other sums clip.
    matrix.arrange(shuffled("inputs"))
    assert not torch.equal(matrix(X), before)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("emulator", ["ideal", "linear", "physics"])
def test_wires_feel_the_places_and_the_way_back_is_exact(scheme: dict[str, str], emulator: str) -> None:
    matrix = made(emulator, **scheme)
    before, cells = matrix(X), matrix.conductances.clone()
    for names in (("outputs",), ("inputs",), ("lines",), ("outputs", "inputs", "lines")):
        matrix.arrange(shuffled(*names))  # from wherever things are
        assert not torch.equal(matrix.conductances, cells)
        assert torch.equal(matrix(X), before) == (emulator == "ideal")
        assert torch.allclose(matrix(X), before, atol=0.6 * float(before.abs().max()))
    matrix.arrange(Arrangement())
    assert torch.equal(matrix.conductances, cells)
    assert torch.equal(matrix(X), before)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("emulator", ["ideal", "linear", "physics"])
def test_a_trained_weight_is_programmed_where_a_programmed_one_would_be_put(
    scheme: dict[str, str], emulator: str
) -> None:
    fixed, trained = (
        made(emulator, **scheme, weight_scale="channel", trainable=trainable) for trainable in (False, True)
    )
    for matrix in (fixed, trained):
        with torch.no_grad():
            matrix(X)
        matrix.arrange(shuffled())
    assert torch.equal(trained.conductances, fixed.conductances)
    assert torch.equal(trained(X), fixed(X))  # programs it once more, for the gradient
    with torch.no_grad():
        assert torch.equal(trained(X), fixed(X))
        trained.weight.neg_()  # type: ignore[union-attr]
        again = CrossbarMatrix(-WEIGHT, trained.architecture, EMULATORS[emulator], inputs=2.0)
        again.arrange(shuffled())
        assert torch.equal(trained(X), again(X))
        assert torch.equal(trained.conductances, again.conductances)


def by_hand(matrix: CrossbarMatrix, cells: Tensor, arrangement: Arrangement) -> Tensor:
    """Natural tiles (row_tiles, arrays, col_tiles, rows, cols) with each cell carried to its new place."""
    arch = matrix.architecture
    rows, per_tile, slices = arch.tile[0], arch.outputs_per_tile, arch.slices
    orders = arrangement.to_dict()
    moved = cells.clone()
    for place, output in enumerate(orders["outputs"]):
        for line, input in enumerate(orders["inputs"]):
            for s in range(slices):
                old = cells[input // rows, :, output // per_tile, input % rows, output % per_tile * slices + s]
                moved[line // rows, :, place // per_tile, line % rows, place % per_tile * slices + s] = old
    laid = torch.empty_like(moved)
    for at, line in enumerate(orders["lines"]):
        laid[..., at] = moved[..., line]
    return laid


@pytest.mark.parametrize("scheme", [SCHEMES[0], SCHEMES[5]], ids=lambda s: "-".join(s.values()))
def test_currents_and_products_are_those_of_the_circuit_with_its_cells_moved_by_hand(scheme: dict[str, str]) -> None:
    """Wires that differ along rows and columns; inputs of one digit, read out by hand as well."""
    matrix = made(
        "linear", **scheme, weight_frac_bits=3, input_bits=3, input_frac_bits=0, input_scheme="unsigned", adc_bits=None,
        accumulator_bits=None, dtype=torch.float64,
    )  # fmt: skip
    natural, arrangement, arch = matrix.conductances.clone(), shuffled(), matrix.architecture
    x = torch.randint(0, 8, (4, INPUTS), generator=torch.Generator().manual_seed(0)).double()
    before = matrix(x)
    matrix.arrange(arrangement)
    cells = by_hand(matrix, natural, arrangement)
    assert torch.equal(matrix.conductances, cells)
    orders = arrangement.to_dict()
    drives = torch.zeros(4, 3 * 8, dtype=torch.float64)
    for line, input in enumerate(orders["inputs"]):
        drives[:, line] = x[:, input] * arch.v_max / 7
    volts = drives.reshape(4, 3, 1, 1, 8)
    reads = matrix.reads(x)
    torch.testing.assert_close(reads.voltages[0], volts, rtol=1e-12, atol=0)
    currents = WIRED.solve(volts, cells, method="linear")
    torch.testing.assert_close(reads.actual[0], currents, rtol=1e-9, atol=0)
    torch.testing.assert_close(reads.ideal[0], torch.einsum("vrk,rackl->vracl", drives.reshape(4, 3, 8), cells))

    counts = currents[..., torch.tensor(orders["lines"]).argsort()] / (arch.window.step(8) * arch.v_max / 7)
    if scheme["offset"] == "analog_difference":
        counts = (counts[:, :, 0] - counts[:, :, 1]).round()
    else:  # less the reference column, then less the bias columns beside it
        counts = (counts - counts[..., -1:]).round().clamp(min=0)[:, :, 0]
        counts[..., :10] -= counts[..., 11:13].repeat(1, 1, 1, 5)
    expected = torch.zeros(4, OUTPUTS, dtype=torch.float64)
    for place, output in enumerate(orders["outputs"]):
        tile, first = divmod(place, arch.outputs_per_tile)
        high, low = (counts[:, :, tile, 2 * first + s].sum(1) for s in (0, 1))
        expected[:, output] = (8 * high + low) / 2**3
    assert torch.equal(matrix(x), expected)
    assert not torch.equal(before, expected), "the places must be felt"


def test_locate_points_at_the_cells_that_hold_a_weight() -> None:
    """Also of measured cells: they move with their weights, and those that hold none stay."""
    matrix = made(weight_scheme="offset", offset="reference_column")
    measured = matrix.conductances * (1 + 0.1 * torch.rand_like(matrix.conductances))
    matrix.program(measured)
    matrix.arrange(shuffled(seed=4))
    matrix.arrange(shuffled(seed=5))
    for output, input in itertools.product(range(OUTPUTS), range(INPUTS)):
        row_tile, col_tile, row, cols = matrix.locate(output, input)
        first = output % 5 * 2
        natural = measured[input // 8, 0, output // 5, input % 8, first : first + 2]
        assert torch.equal(matrix.conductances[row_tile, 0, col_tile, row, list(cols)], natural)
    for at, line in enumerate(shuffled(seed=5).to_dict()["lines"]):
        if line >= 10:  # without outputs: a spare line, the bias columns, the reference column
            assert torch.equal(matrix.conductances[..., at], measured[..., line])


ROWS_ONLY = Crossbar(8, COLS, r_source=0.0, r_sink=0.0, r_wire_row=200.0, r_wire_col=0.0, cell=LinearCell())
COLUMNS_ONLY = Crossbar(8, COLS, r_source=0.0, r_sink=0.0, r_wire_row=0.0, r_wire_col=200.0, cell=LinearCell())
ALIKE = torch.full((7, 8), 0.9)
"""Seven outputs on one tile, which differ in their places alone."""


def test_an_output_loses_less_the_nearer_to_the_drivers() -> None:
    matrix = CrossbarMatrix(ALIKE, ARCH.replace(adc_bits=None), LinearEmulator(ROWS_ONLY), inputs=1.0)
    x = torch.ones(8)
    natural = matrix(x)
    assert bool((natural.diff() < 0).all()), "column 0 is nearest the drivers"
    matrix.arrange(Arrangement.of(outputs=[6, 0, 1, 2, 3, 4, 5]))
    moved = matrix(x)
    assert torch.equal(moved[[6, 0, 1, 2, 3, 4, 5]], natural), "which of equal outputs it is makes no difference"
    assert moved[6] > natural[6]


def test_a_slice_loses_less_the_nearer_to_the_drivers() -> None:
    """Most significant bit lines first: the sum of slices is larger."""
    matrix = CrossbarMatrix(ALIKE, ARCH.replace(adc_bits=None), LinearEmulator(ROWS_ONLY), inputs=1.0)
    natural = matrix(torch.ones(8))
    matrix.arrange(Arrangement.of(lines=[*range(0, COLS, 2), *range(1, COLS, 2)]))
    near = matrix(torch.ones(8))
    matrix.arrange(Arrangement.of(lines=[*range(1, COLS, 2), *range(0, COLS, 2)]))
    assert near.sum() > natural.sum() > matrix(torch.ones(8)).sum()


def test_an_input_loses_less_the_nearer_to_the_sense_side() -> None:
    matrix = CrossbarMatrix(ALIKE, ARCH.replace(adc_bits=None), LinearEmulator(COLUMNS_ONLY), inputs=1.0)
    x = torch.zeros(8)
    x[0] = 1.0
    far = matrix(x)
    matrix.arrange(Arrangement.of(inputs=[7, 1, 2, 3, 4, 5, 6, 0]))
    assert bool((matrix(x) > far).all())
    assert torch.equal(matrix(x.flip(0)), far)


@pytest.mark.parametrize("granularity", ["tile", "column"])
@pytest.mark.parametrize("trainable", [False, True])
def test_finer_adc_ranges_are_chosen_anew_by_vectors(granularity: str, trainable: bool) -> None:
    options = {"adc_bits": 5, "adc_range": "calibrated", "adc_granularity": granularity}
    ideal, wired = (made(e, **options, inputs=seen(VECTORS), trainable=trainable) for e in ("ideal", "linear"))
    for wrong in (None, VECTORS[:, 1:], VECTORS[:0], torch.rand(3, INPUTS + 1)):
        old = copy.deepcopy(wired.state_dict())
        with pytest.raises(InputError, match=r"^vectors: got .*(inputs|vectors \(count)"):
            wired.arrange(shuffled(), wrong)
        assert all(torch.equal(value, old[name]) for name, value in wired.state_dict().items()), "nothing has moved"
    with pytest.raises(InputError, match=rf"^vectors: got .*one or more vectors \(count, {INPUTS}\)"):
        wired.calibrate_adc(VECTORS[:, 1:])
    before, step = ideal(VECTORS), wired.adc_step
    assert step is not None
    # Ranges follow the columns: one of a tile's own outputs, on any of its bit lines, is read as before.
    ideal.arrange(Arrangement.of(outputs=[6, 4, 2, 5, 3, 1, 0, 10, 8, 9, 7], lines=shuffled().lines), VECTORS)
    assert torch.equal(ideal(VECTORS), before)
    wired.arrange(shuffled(), VECTORS)
    chosen = wired.adc_step
    assert chosen is not None
    assert not torch.equal(chosen, step)
    wired.calibrate_adc(VECTORS)
    assert torch.equal(chosen, wired.adc_step)  # type: ignore[arg-type]
    wired.arrange(Arrangement(), VECTORS)
    assert torch.equal(step, wired.adc_step)  # type: ignore[arg-type]


@pytest.mark.parametrize("vectors", [None, VECTORS[:3]])
@pytest.mark.parametrize("adc_range", ["unit", "full_scale", "calibrated"])
def test_one_adc_range_for_all_stays(adc_range: str, vectors: Tensor | None) -> None:
    matrix = made("linear", adc_bits=5, adc_range=adc_range, inputs=seen(VECTORS))
    step = matrix.adc_step
    matrix.arrange(shuffled(), vectors)
    assert matrix.adc_step is step


@pytest.mark.parametrize("layout", ["dense", "block_diagonal"])
@pytest.mark.parametrize("transposed", [False, True])
def test_each_matrix_of_a_grouped_convolution_has_places_of_its_own(layout: Any, transposed: bool) -> None:
    torch.manual_seed(0)
    conv = (nn.ConvTranspose2d if transposed else nn.Conv2d)(6, 6, (1, 2), groups=3)
    images = torch.rand(2, 6, 4, 4)
    ideal, wired = (convert(conv, ARCH, EMULATORS[e], calibration=images, layout=layout) for e in ("ideal", "linear"))
    assert len(find_crossbar_matrices(ideal)) == (3 if layout == "dense" else 2)
    before, lossy = ideal(images), wired(images)
    for model in (ideal, wired):
        for k, matrix in enumerate(find_crossbar_matrices(model).values()):
            matrix.arrange(shuffled_for(matrix, seed=k))
    assert torch.equal(ideal(images), before)
    assert not torch.equal(wired(images), lossy)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
def test_ideal_gradients_do_not_depend_on_the_places(scheme: dict[str, str]) -> None:
    """But for the rounding of sums in another order."""
    gradients = []
    for arrangement in (Arrangement(), shuffled()):
        matrix = made("read", **scheme, weight_scale="channel", trainable=True, dtype=torch.float64)
        matrix.arrange(arrangement)
        x = X.double().requires_grad_()
        gradients.append(torch.autograd.grad(matrix(x).square().sum(), (x, matrix.weight)))  # type: ignore[arg-type]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_state_brings_its_places(trainable: bool) -> None:
    """Conductances mean nothing without them, whatever the places of the matrix that takes them."""
    matrix, other = (made("linear", trainable=trainable) for _ in range(2))
    natural, before = copy.deepcopy(matrix.state_dict()), matrix(X)
    matrix.arrange(shuffled())
    other.arrange(shuffled(seed=9))
    other.load_state_dict(matrix.state_dict())
    assert other.layout == matrix.layout
    assert torch.equal(other(X), matrix(X))
    other.load_state_dict(natural)
    assert torch.equal(other(X), before)
    assert not torch.equal(matrix(X), before)


def test_casts_and_copies_keep_the_places() -> None:
    matrix = made()
    matrix.arrange(shuffled())
    out, layout = matrix(X), matrix.layout
    copied = copy.deepcopy(matrix)
    assert torch.equal(matrix.half().double().float()(X), out)
    assert matrix.layout == layout == copied.layout
    matrix.arrange(Arrangement())
    assert copied.layout == layout
    assert torch.equal(copied(X), out)


def reversed_places(matrix: CrossbarMatrix) -> Arrangement:
    """On the CPU, and not looked at: fake tensors have no values."""
    sizes = (matrix.layout.outputs, matrix.layout.inputs, matrix.architecture.tile[1])
    return Arrangement(*(torch.arange(size, device="cpu").flip(0) for size in sizes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("emulator", "scheme", "trainable"),
    [("ideal", SCHEMES[2], False), ("read", SCHEMES[5], True), ("linear", SCHEMES[0], True), ("linear", {}, False)],
)
def test_arranged_layers_keep_to_one_device_under_fake_cuda(
    emulator: str, scheme: dict[str, str], trainable: bool
) -> None:
    options: dict[str, Any] = {"inputs": 1.0, "trainable": trainable}
    arch = ARCH.replace(**scheme, weight_frac_bits=4)
    with FakeTensorMode(), torch.device("cuda"):
        conv = CrossbarConv(nn.Conv2d(3, 3, (1, 2), groups=3), arch, EMULATORS[emulator], layout="dense", **options)
        head = CrossbarLinear(nn.Linear(12, 5), arch, EMULATORS[emulator], **options)
        for matrix in find_crossbar_matrices(nn.Sequential(conv, head)).values():
            matrix.arrange(reversed_places(matrix))
        head.matrix.arrange(reversed_places(head.matrix))  # from places on the device
        out = head(conv(torch.empty(4, 3, 2, 3)).flatten(1))
    assert (out.shape, out.device.type, out.dtype) == ((4, 5), "cuda", torch.float32)


def test_the_places_move_with_the_matrix_under_fake_cuda() -> None:
    with FakeTensorMode():
        matrix = CrossbarMatrix(torch.empty(5, 24), ARCH.replace(weight_frac_bits=4), IdealEmulator(), inputs=1.0)
        matrix.arrange(reversed_places(matrix))
        out = matrix.cuda()(torch.empty(3, 24, device="cuda"))
    assert (out.shape, out.device.type) == ((3, 5), "cuda")
