"""The laws of an emulator; a new one passes them by subclassing ``EmulatorLaws``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.cells import LinearCell
from geniex.circuit import Crossbar
from geniex.emulator import (
    CircuitEmulator,
    Emulator,
    IdealEmulator,
    LinearEmulator,
    SurrogateEmulator,
    map_tensors,
)
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.surrogate import GeniexMLP

ROWS, COLS = 5, 4
CROSSBAR = Crossbar(ROWS, COLS, r_source=1e3, r_wire=10.0)
IDEAL_CROSSBAR = Crossbar(ROWS, COLS, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=LinearCell())
WINDOW = ConductanceWindow(100e3, 6.0)


def conductances(*lead: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(*lead, ROWS, COLS, generator=generator, dtype=torch.float64)
    return WINDOW.g_off + share * (WINDOW.g_on - WINDOW.g_off)


def voltages(*lead: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.05 + 0.2 * torch.rand(*lead, ROWS, generator=generator, dtype=torch.float64)


class EmulatorLaws:
    """Override ``make``; everything here then holds or fails for the new emulator."""

    ideal_rtol = 1e-9

    def make(self, crossbar: Crossbar) -> Emulator:
        raise AssertionError("override make")

    def run(self, v: Tensor, g: Tensor, crossbar: Crossbar = CROSSBAR) -> Tensor:
        emulator = self.make(crossbar)
        return emulator.read(emulator.program(g), v)

    def test_zero_wires_and_linear_cells_give_the_ideal_product(self) -> None:
        g, v = conductances(3), voltages(3)
        ideal = torch.einsum("ti,tij->tj", v, g)
        assert torch.allclose(self.run(v, g, IDEAL_CROSSBAR), ideal, rtol=self.ideal_rtol, atol=0)

    def test_no_voltage_no_current(self) -> None:
        assert torch.equal(self.run(torch.zeros(2, ROWS).double(), conductances()), torch.zeros(2, COLS).double())

    @pytest.mark.parametrize(
        ("lead_v", "lead_g"),
        [
            ((), ()),
            ((3,), ()),
            ((), (3,)),
            ((3,), (3,)),
            ((2, 1, 3), (4, 1)),
            ((2, 1), (1, 3)),
            ((3, 2, 1), (2, 3)),
        ],
    )
    def test_leading_dimensions_broadcast_like_single_reads(
        self, lead_v: tuple[int, ...], lead_g: tuple[int, ...]
    ) -> None:
        v, g = voltages(*lead_v), conductances(*lead_g)
        got = self.run(v, g)
        lead = torch.broadcast_shapes(lead_v, lead_g)
        assert got.shape == (*lead, COLS)
        vs = v.expand(*lead, ROWS).reshape(-1, ROWS)
        gs = g.expand(*lead, ROWS, COLS).reshape(-1, ROWS, COLS)
        singles = torch.stack([self.run(a, b) for a, b in zip(vs, gs, strict=True)])
        assert torch.allclose(got.reshape(-1, COLS), singles, rtol=1e-8, atol=0)

    @pytest.mark.slow
    def test_gradients_in_voltages_and_conductances(self) -> None:
        emulator = self.make(CROSSBAR)
        v = voltages(2).requires_grad_()
        micro = (conductances(2) * 1e6).requires_grad_()

        def microampere(v: Tensor, micro: Tensor) -> Tensor:
            return emulator.read(emulator.program(micro * 1e-6), v) * 1e6

        assert torch.autograd.gradcheck(microampere, (v, micro), eps=1e-4, atol=1e-6, rtol=1e-4)

    def test_dtype_of_the_inputs_is_kept(self) -> None:
        assert self.run(voltages(2).float(), conductances().float()).dtype == torch.float32

    def test_values_are_checked_when_programming(self) -> None:
        bad = conductances()
        bad[0, 0] = float("nan")
        with pytest.raises(InputError, match="conductances"):
            self.make(CROSSBAR).program(bad)
        with pytest.raises(InputError, match="microsiemens"):
            self.make(CROSSBAR).program(conductances() * 1e6)

    def test_device_and_dtype_stay_together_on_cuda(self) -> None:
        with FakeTensorMode(), torch.device("cuda"):
            emulator = self.make(CROSSBAR)
            g = torch.empty(3, ROWS, COLS, dtype=torch.float32)
            v = torch.empty(7, 1, ROWS, dtype=torch.float32)
            out = emulator.read(emulator.program(g), v)
        assert out.shape == (7, 3, COLS)
        assert (out.device.type, out.dtype) == ("cuda", torch.float32)

    def test_programmed_array_moves(self) -> None:
        emulator = self.make(CROSSBAR)
        array = emulator.program(conductances(2))
        single = map_tensors(array, lambda t: t.float())
        got = emulator.read(single, voltages(2).float())
        assert got.dtype == torch.float32
        assert torch.allclose(got, emulator.read(array, voltages(2)).float(), rtol=1e-4)

    def test_part_of_the_tiles_reads_alone(self) -> None:
        emulator, v = self.make(CROSSBAR), voltages(3)
        array = emulator.program(conductances(3))
        part = map_tensors(array, lambda t: t[1:])
        assert torch.allclose(emulator.read(part, v[1:]), emulator.read(array, v)[1:], rtol=1e-8)


class TestIdeal(EmulatorLaws):
    def make(self, crossbar: Crossbar) -> Emulator:
        return IdealEmulator()


class TestLinear(EmulatorLaws):
    def make(self, crossbar: Crossbar) -> Emulator:
        return LinearEmulator(crossbar)

    def test_matches_the_circuit_of_linear_cells(self) -> None:
        linear = CROSSBAR.replace(cell=LinearCell())
        exact = linear.solve(voltages(3), conductances(3), method="native", tol=1e-12)
        assert torch.allclose(self.run(voltages(3), conductances(3)), exact, rtol=1e-10)


class TestCircuit(EmulatorLaws):
    def make(self, crossbar: Crossbar) -> Emulator:
        return CircuitEmulator(crossbar, tol=1e-12)

    # The iterative solver looks at its residuals; a fixed number of iterations is in tests/circuit.
    test_device_and_dtype_stay_together_on_cuda = None  # type: ignore[assignment]

    def run(self, v: Tensor, g: Tensor, crossbar: Crossbar = CROSSBAR) -> Tensor:
        emulator = CircuitEmulator(crossbar, tol=1e-12 if v.dtype == torch.float64 else 1e-4)
        return emulator.read(emulator.program(g), v)

    def test_programmed_array_moves(self) -> None:
        emulator = CircuitEmulator(CROSSBAR)
        single = map_tensors(emulator.program(conductances(2)), lambda t: t.float())
        exact = emulator.read(emulator.program(conductances(2)), voltages(2))
        assert torch.allclose(emulator.read(single, voltages(2).float()), exact.float(), rtol=1e-4)


class TestGeniexMLP(EmulatorLaws):
    """An untrained network: the laws hold for any weights that its scalers allow."""

    ideal_rtol = 1e-5
    """The span of its ratios is kept above 1e-6."""

    def make(self, crossbar: Crossbar) -> Emulator:
        torch.manual_seed(0)
        # Ideal circuits have one ratio, 1: that is what a network trained on them would hold.
        ratios = (1.0, 1.0) if crossbar == IDEAL_CROSSBAR else (0.9, 1.3)
        surrogate = GeniexMLP(crossbar, WINDOW, 0.25, hidden=16, r_min=ratios[0], r_max=ratios[1])
        return SurrogateEmulator(surrogate, crossbar)

    def test_another_circuit_or_architecture_is_refused(self) -> None:
        emulator = self.make(CROSSBAR)
        good = Architecture(tile=(ROWS, COLS), v_max=0.25, window=WINDOW)
        emulator.bind(good)
        with pytest.raises(ConversionError, match="v_max"):
            emulator.bind(good.replace(v_max=0.5))
        with pytest.raises(ConversionError, match="on_off"):
            emulator.bind(good.replace(window=ConductanceWindow(100e3, 10.0)))
        with pytest.raises(ConversionError, match="tile"):
            emulator.bind(good.replace(tile=(8, 8)))


class TestPhysics(EmulatorLaws):
    """Both members of the family that needs no training."""

    name = "physics"

    def make(self, crossbar: Crossbar) -> Emulator:
        return SurrogateEmulator(self.name, crossbar)


class TestPhysicsFast(TestPhysics):
    name = "physics-fast"
