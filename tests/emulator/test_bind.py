"""The laws of binding and moving: whoever uses an emulator leaves it, and everyone else who uses it, as they were."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex.cells import LinearCell, SinhCell, TabulatedCell
from geniex.circuit import Crossbar
from geniex.circuit.metrics import relative_error
from geniex.emulator import (
    CircuitEmulator,
    Emulator,
    IdealEmulator,
    LinearEmulator,
    StoredEmulator,
    SurrogateEmulator,
)
from geniex.emulator.base import move_copy, move_copy_once
from geniex.emulator.identity import identify
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.simulator import CrossbarLinear, CrossbarMatrix, convert, dry_run, find_crossbar_matrices, replace_emulator
from geniex.surrogate import GeniexMLP
from geniex.variation import NoisyEmulator, ReadNoise

CROSSBAR = Crossbar(6, 4, r_source=1e3, r_wire=10.0)
WINDOW = ConductanceWindow(100e3, 6.0)
ARCH = Architecture(
    tile=(6, 4), window=WINDOW, v_max=0.25, weight_bits=4, slice_bits=2, input_bits=4, stream_bits=2, adc_bits=None
)
STREAMS = [ARCH, ARCH.replace(stream_bits=1), ARCH.replace(stream_bits=4)]
OTHERS = [*STREAMS, ARCH.replace(v_max=0.1), ARCH.replace(window=ConductanceWindow(50e3, 10.0))]
NOISE = ReadNoise(relative=0.05, current=1e-8)


class Own(Emulator):
    """A user's own: no more than a name, ``program`` and ``read``."""

    name = "own"

    def program(self, conductances: Tensor) -> tuple[Tensor]:
        return (conductances,)

    def read(self, array: tuple[Tensor], voltages: Tensor) -> Tensor:
        return 0.9 * (voltages.unsqueeze(-2) @ array[0]).squeeze(-2)


def mlp() -> Emulator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SurrogateEmulator(GeniexMLP(CROSSBAR, WINDOW, 0.25, hidden=8, r_min=0.9, r_max=1.3), CROSSBAR)


KINDS: dict[str, Callable[[], Emulator]] = {
    "ideal": IdealEmulator,
    "linear": lambda: LinearEmulator(CROSSBAR),
    "circuit": lambda: CircuitEmulator(CROSSBAR),
    "physics": lambda: SurrogateEmulator("physics", CROSSBAR),
    "physics-fast": lambda: SurrogateEmulator("physics-fast", CROSSBAR),
    "mlp": mlp,
    "own": Own,
}
WRAPPERS: dict[str, Callable[[Emulator, Path], Emulator]] = {
    "bare": lambda inner, _: inner,
    "stored": lambda inner, _: StoredEmulator(inner),
    "float16": lambda inner, _: StoredEmulator(inner, dtype=torch.float16),
    "cached": lambda inner, path: StoredEmulator(inner, cache=path),
    "noise off": lambda inner, _: NoisyEmulator(inner, ReadNoise()),
    "noisy": lambda inner, _: NoisyEmulator(inner, NOISE, seed=3),
    "noisy, float16": lambda inner, _: NoisyEmulator(StoredEmulator(inner, dtype=torch.float16), NOISE, seed=3),
}
PAIRS = [(kind, wrapper) for kind in KINDS for wrapper in WRAPPERS if (kind, wrapper) != ("own", "cached")]


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Emulator]:
    """Equal emulators, with caches of their own, and the architectures that they serve as an attribute."""
    kind, wrapper = request.param
    count = iter(range(100))

    def made() -> Emulator:
        return WRAPPERS[wrapper](KINDS[kind](), tmp_path / str(next(count)))

    # Wrappers bind the wrapped emulator, whose binding to every kind of architecture is tested without them.
    served = STREAMS if kind == "mlp" else OTHERS
    made.architectures = served if wrapper == "bare" else served[:2]  # type: ignore[attr-defined]
    return made


def weight() -> Tensor:
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(1))


def inputs() -> Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(2))


def matrix(architecture: Architecture, emulator: Emulator) -> CrossbarMatrix:
    return CrossbarMatrix(weight(), architecture, emulator, inputs=2.0)


def reads(of: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.no_grad():
        return of(inputs().to(dtype))


def currents(emulator: Emulator) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    g = WINDOW.g_off + torch.rand(2, 6, 4, generator=generator) * (WINDOW.g_on - WINDOW.g_off)
    v = 0.25 * torch.rand(2, 6, generator=generator)
    return emulator.read(emulator.program(g), v)


class TestBinding:
    """Every kind of emulator, alone and wrapped."""

    @pytest.mark.slow
    def test_one_emulator_serves_every_architecture_as_if_alone(self, make: Any) -> None:
        """Also after matrices of other architectures are built and read; noise goes on from read to read."""
        alone = [[reads(m), reads(m)] for m in (matrix(a, make()) for a in make.architectures)]
        untouched = make()
        own = [currents(untouched), currents(untouched)]

        shared = make()
        first = currents(shared)
        told = identify(shared)[0]
        matrices, before = [], []
        for architecture in make.architectures:
            matrices.append(matrix(architecture, shared))
            before.append(reads(matrices[-1]))
        after = [reads(m) for m in matrices]
        for expected, got in zip(alone, zip(before, after, strict=True), strict=True):
            assert torch.equal(expected[0], got[0])
            assert torch.equal(expected[1], got[1])
        assert torch.equal(first, own[0])
        assert torch.equal(currents(shared), own[1])
        assert identify(shared)[0] == told

    def test_what_is_bound_stays_itself(self, make: Any) -> None:
        emulator = make()
        for architecture in make.architectures:
            bound = emulator.bind(architecture)
            assert bound.bind(architecture) is bound
            assert matrix(architecture, bound).emulator is bound

    def test_moving_one_model_leaves_the_others(self, make: Any) -> None:
        emulator = make()
        linear = nn.Linear(8, 3)
        with torch.no_grad():
            linear.weight.copy_(weight())
        for build in (
            lambda e: matrix(ARCH, e),
            lambda e: CrossbarLinear(linear, ARCH, e, inputs=2.0),
            lambda e: convert(nn.Sequential(linear, nn.ReLU()), ARCH, e, calibration=inputs()),
        ):
            expected = [reads(m) for m in [build(make())] for _ in range(2)]
            tensors = {name: tensor.clone() for name, tensor in emulator.state_dict().items()}
            moved, other = build(emulator), build(emulator)
            first = reads(other)
            moved.to(torch.float64)
            assert reads(moved, torch.float64).dtype == torch.float64
            assert torch.equal(first, expected[0])
            assert torch.equal(reads(other), expected[1])
            for name, tensor in emulator.worker.state_dict().items():
                assert tensor.dtype == torch.float32
                assert name not in tensors or torch.equal(tensor, tensors[name])

    def test_a_conversion_leaves_the_emulator(self, make: Any) -> None:
        """Also a dry run, an exchange of emulators, and calibrated ADCs, which are read."""
        network = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
        emulator, untouched = make(), make()
        expected = [currents(untouched), currents(untouched)]
        assert torch.equal(currents(emulator), expected[0])
        arch = ARCH.replace(adc_bits=8, adc_range="calibrated")
        converted = convert(network, arch, emulator, calibration=inputs())
        reads(converted)
        reads(replace_emulator(convert(network, ARCH, IdealEmulator(), calibration=inputs()), emulator))
        dry_run(network, ARCH, emulator)
        assert torch.equal(currents(emulator), expected[1])

    def test_layers_of_one_conversion_share_one_emulator_wherever_it_is_moved(self, make: Any) -> None:
        network = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
        converted = convert(network, ARCH, make(), calibration=inputs())
        for model in (converted, converted.to(torch.float64), converted.to("cpu")):
            emulators = [m.emulator for m in find_crossbar_matrices(model).values()]
            assert len({id(emulator) for emulator in emulators}) == 1


# Surrogates


def test_the_first_matrix_keeps_its_products() -> None:
    """Binding used to change the surrogate that both share: the first matrix then read as if driven by 0.1 V."""
    crossbar = Crossbar(64, 64)
    emulator, arch = SurrogateEmulator("physics", crossbar), Architecture(tile=(64, 64), v_max=0.25)
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(8, 64, generator=generator) / 8, torch.rand(3, 64, generator=generator)
    first = CrossbarMatrix(weight, arch, emulator, inputs=1.0)
    exact = CrossbarMatrix(weight, arch, CircuitEmulator(crossbar), inputs=1.0)(x)
    before = first(x)
    CrossbarMatrix(weight, arch.replace(v_max=0.1), emulator, inputs=1.0)
    assert torch.equal(first(x), before)
    assert (before - exact).abs().max() < 1e-3 * exact.abs().max()


def test_training_a_surrogate_on_leaves_what_was_converted_with_it() -> None:
    emulator = mlp()
    converted = convert(nn.Linear(8, 3), ARCH, emulator, calibration=inputs())
    expected = reads(converted)
    with torch.no_grad():
        for parameter in emulator.surrogate.parameters():  # type: ignore[attr-defined]
            parameter.add_(0.1)
    assert torch.equal(reads(converted), expected)


def test_a_surrogate_that_is_trained_keeps_no_graph_in_a_conversion() -> None:
    emulator = mlp()
    emulator.surrogate.requires_grad_(True)  # type: ignore[attr-defined]
    converted = convert(nn.Linear(8, 3), ARCH, emulator, calibration=inputs())
    assert not converted(inputs()).requires_grad
    assert all(p.requires_grad for p in emulator.surrogate.parameters())  # type: ignore[attr-defined]


def test_a_moved_surrogate_keeps_what_its_weights_are() -> None:
    """Gradients asked for or not, tied or not; what would be half precision stays float32."""
    emulator = mlp()
    surrogate = emulator.surrogate  # type: ignore[attr-defined]
    surrogate.hidden.bias.requires_grad_(False)
    surrogate.tied = surrogate.output.weight
    double = move_copy(emulator, Tensor.double).surrogate  # type: ignore[attr-defined]
    assert double.tied is double.output.weight is not surrogate.output.weight
    assert double.tied.dtype == torch.float64
    assert double.tied.is_leaf
    assert [p.requires_grad for p in double.parameters()] == [p.requires_grad for p in surrogate.parameters()]
    half = move_copy(emulator, Tensor.half).surrogate  # type: ignore[attr-defined]
    assert {p.dtype for p in half.parameters()} == {torch.float32}

    def function(tensor: Tensor) -> Tensor:
        return tensor.to("meta")

    assert move_copy_once(emulator, function) is move_copy_once(emulator, function)


# Noise


def test_matrices_built_one_by_one_draw_alike_and_those_of_a_bound_emulator_go_on() -> None:
    noisy = NoisyEmulator(IdealEmulator(), NOISE, seed=3)
    one, two = matrix(ARCH, noisy), matrix(ARCH, noisy)
    first, second = reads(one), reads(one)
    assert torch.equal(reads(two), first)
    assert not torch.equal(first, second)
    bound = noisy.bind(ARCH)
    one, two = matrix(ARCH, bound), matrix(ARCH, bound)
    assert torch.equal(reads(one), first)
    assert torch.equal(reads(two), second)


def test_noise_begins_anew_for_a_conversion_with_a_bound_emulator() -> None:
    bound = NoisyEmulator(IdealEmulator(), NOISE, seed=3).bind(ARCH)
    network = nn.Linear(8, 3)
    one = convert(network, ARCH, bound, calibration=inputs())
    expected = reads(one), reads(one)
    other = convert(network, ARCH, bound, calibration=inputs())
    assert torch.equal(reads(other), expected[0])
    reads(one)
    assert torch.equal(reads(other), expected[1])


def test_noise_goes_on_when_a_model_moves() -> None:
    network = nn.Linear(8, 3)
    noisy = NoisyEmulator(mlp(), NOISE, seed=3)
    stayed, moved = (convert(network, ARCH, noisy, calibration=inputs(), dtype=torch.float64) for _ in range(2))
    expected = [reads(stayed, torch.float64) for _ in range(2)]
    assert torch.equal(reads(moved, torch.float64), expected[0])
    moved.to("cpu", torch.float64)
    assert torch.allclose(reads(moved, torch.float64), expected[1], rtol=1e-5)


def test_calibrating_an_adc_leaves_the_noise_of_reads_at_its_beginning() -> None:
    noisy = NoisyEmulator(IdealEmulator(), NOISE, seed=3)
    arch = ARCH.replace(adc_bits=8, adc_range="calibrated")
    converted = convert(nn.Linear(8, 3), arch, noisy, calibration=inputs())
    before = reads(converted)
    next(iter(find_crossbar_matrices(converted).values())).emulator.restart()  # type: ignore[attr-defined]
    assert torch.equal(reads(converted), before)


# Open cells


@pytest.mark.parametrize("name", ["linear", "circuit", "physics", "physics-fast"])
def test_open_cells_carry_nothing(name: str) -> None:
    """Cells, lines and whole tiles at 0 S, against the circuit solved exactly."""
    generator = torch.Generator().manual_seed(0)
    g = WINDOW.g_on * torch.rand(4, 6, 4, generator=generator, dtype=torch.float64)
    g[0] = g[0] * (torch.rand(6, 4, generator=generator) > 0.5)
    g[1, :, 2], g[2, 3] = 0, 0
    g[3] = 0
    v = 0.25 * torch.rand(5, 1, 6, generator=generator, dtype=torch.float64)
    emulator = KINDS[name]()
    got = emulator.read(emulator.program(g), v)
    exact = CROSSBAR.solve(v, g, method="linear" if name == "linear" else "native", tol=1e-12)
    assert (got[:, 3] == 0).all()
    assert (got[:, 1, 2].abs() < 1e-20).all()
    assert relative_error(exact, got).nan_to_num().max() < 1e-3
    assert torch.isfinite(got).all()


def unlimited() -> ConductanceWindow:
    """A window whose lowest level is an open cell, or as good as one."""
    try:
        return ConductanceWindow(100e3, math.inf)
    except InputError:  # where windows have to end
        return ConductanceWindow(100e3, 1e9)


def test_open_windows_are_served() -> None:
    """Linear cells on the exact circuit as on the eliminated one; without wires both are ideal."""
    arch = ARCH.replace(window=unlimited())
    ideal = reads(matrix(arch, IdealEmulator()))
    assert (ideal - inputs() @ weight().T).abs().max() < 1.5, "4-bit inputs and weights"
    wired = CROSSBAR.replace(cell=LinearCell())
    linear, circuit = (reads(matrix(arch, kind(wired))) for kind in (LinearEmulator, CircuitEmulator))
    assert torch.allclose(circuit, linear, atol=1e-3)
    tied = LinearEmulator(CROSSBAR.replace(r_source=0.0, r_sink=0.0, r_wire=0.0))
    assert torch.allclose(reads(matrix(arch, tied)), ideal, atol=1e-3)
    assert torch.isfinite(reads(matrix(arch, CircuitEmulator(CROSSBAR)))).all()


@pytest.mark.parametrize("name", ["physics", "physics-fast", "mlp"])
def test_surrogates_refuse_open_windows_by_name(name: str) -> None:
    arch = ARCH.replace(window=unlimited())
    with pytest.raises(ConversionError, match=r"on_off.*(inf|1e.09|1000000000)"):
        matrix(arch, KINDS[name]())
    if name != "mlp":
        with pytest.warns(UserWarning, match="on_off"):
            warned = matrix(arch, SurrogateEmulator(name, CROSSBAR, outside="warn"))
        exact = reads(matrix(arch, CircuitEmulator(CROSSBAR)))
        assert (reads(warned) - exact).abs().max() < 2e-3


def test_tabulated_cells_end_where_their_table_does() -> None:
    table = TabulatedCell((0.0, 0.1, 0.2), ((0.0, 1e-7, 2.1e-7), (0.0, 1e-6, 2.2e-6)))
    emulator = CircuitEmulator(CROSSBAR.replace(cell=table))
    with pytest.raises(InputError, match=r"voltages.*0\.25 V"):
        emulator.bind(ARCH)
    with pytest.raises(InputError, match=r"conductances.*the curves cover 1e-06 to 1e-05 S"):
        emulator.bind(ARCH.replace(v_max=0.2, window=ConductanceWindow(50e3, 10.0)))


# Descriptions

TERMINALS = "driver 1000 ohm, sense 100 ohm, wires 10 ohm a cell"
CIRCUIT = f"6 x 4, sinh cells (v0 = 0.25 V), {TERMINALS}"
DESCRIPTIONS = {
    "ideal": "ideal: no wires, linear cells",
    "linear": f"linear: {CIRCUIT}; cells at their small-signal conductance",
    "circuit": f"circuit: {CIRCUIT}",
    "physics": f"physics: {CIRCUIT}",
    "physics-fast": f"physics-fast: {CIRCUIT}",
    "mlp": f"GeniexMLP: {CIRCUIT}",
    "own": "own",
}


@pytest.mark.parametrize("kind", KINDS)
def test_descriptions_name_cells_and_resistances(kind: str, tmp_path: Path) -> None:
    inner = KINDS[kind]()
    assert inner.description == DESCRIPTIONS[kind]
    assert StoredEmulator(inner, dtype=torch.float16).description == f"stored (float16): {DESCRIPTIONS[kind]}"
    noisy = NoisyEmulator(inner, NOISE, seed=3)
    assert noisy.description == f"read noise (5 % per cell, 1e-08 A per column, seed 3): {DESCRIPTIONS[kind]}"
    assert noisy.bind(ARCH).description == noisy.description
    if kind != "own":
        cached = StoredEmulator(inner, cache=tmp_path).description
        assert cached == f"stored (cached in {tmp_path}): {DESCRIPTIONS[kind]}"
    apart = Crossbar(8, 4, r_wire_row=1.0, r_wire_col=2.0, cell=SinhCell(0.3, reference_voltage=0.1))
    assert CircuitEmulator(apart).description == (
        "circuit: 8 x 4, sinh cells (v0 = 0.3 V, G at 0.1 V), driver 500 ohm, sense 100 ohm,"
        " word lines 1 and bit lines 2 ohm a cell"
    )


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cache: got .*file.*it must be a folder that can be created"):
        StoredEmulator(IdealEmulator(), cache=tmp_path / "file")
