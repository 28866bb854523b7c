"""The emulators on which ``geniex bench inference`` runs its workloads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geniex.bench import circuits
from geniex.bench.inference_cases import Case, Layer, keep_few_vectors, observe_products
from geniex.bench.surrogate_models import make_random_network
from geniex.bench.surrogate_report import FAST, IDEAL, LINEAR, PHYSICS
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.mapping import Architecture
from geniex.simulator import convert
from geniex.surrogate import Surrogate, list_shipped_surrogates, load_surrogate

LOSSLESS, MLP, CIRCUIT = "ideal-lossless", "geniex-mlp", "circuit"
EMULATORS = (IDEAL, LOSSLESS, LINEAR, FAST, PHYSICS, MLP, CIRCUIT)
"""Emulators by the name that the command takes; "ideal-lossless" has an ADC that never clips."""

_NOMINAL = "easy"
"""The GENIEx nominal circuit."""
_MLP_BITS = 4
"""Bits of the cells and streams on which the shipped GENIEx networks are trained."""
_FEW = 1024
"""Most tile-vectors for the exact circuit; it is given at least one vector, even if that has more."""


@dataclass(frozen=True)
class Contender:
    """A workload, or some vectors of it, on one emulator."""

    name: str
    module: nn.Module
    x: Tensor
    architecture: Architecture
    emulator: Emulator
    dtype: torch.dtype
    share: float = 1.0
    """Share of the workload's vectors that the emulator is given."""
    note: str = ""
    trained: bool = True
    """Whether the emulator is meant for these numbers; otherwise its error has no meaning and it is only timed."""

    @property
    def collapses(self) -> bool:
        """Whether a single product of the integer weights and inputs gives the same result."""
        return self.name == LOSSLESS

    def program(self) -> nn.Module:
        """The module on crossbars; its ranges are calibrated on the inputs of the timed reads."""
        return convert(self.module, self.architecture, self.emulator, calibration=self.x, dtype=self.dtype)

    def warm_up(self) -> None:
        """Convert and read a tiny layer, so that first calls of library routines are not timed."""
        ones = torch.ones(1, 2, dtype=self.x.dtype, device=self.x.device)
        linear = nn.Linear(2, 2).to(ones)
        convert(linear, self.architecture, self.emulator, calibration=ones, dtype=self.dtype)(ones)


def make_contender(name: str, case: Case, module: nn.Module, x: Tensor) -> Contender:
    """The emulator ``name`` with the module and inputs of a case, on their device.

    Raises:
        GeniexError: the emulator cannot run the case.
    """
    crossbar = circuits.Case(case.tile, "sinh", _NOMINAL).crossbar
    architecture = case.architecture(lossless=name == LOSSLESS)
    single = torch.float32
    if name in (IDEAL, LOSSLESS):
        return Contender(name, module, x, architecture, IdealEmulator(), single)
    if name == LINEAR:
        return Contender(name, module, x, architecture, LinearEmulator(crossbar), single)
    if name == CIRCUIT:
        return _circuit(case, module, x, architecture, CircuitEmulator(crossbar))
    note, trained = "", True
    if name == MLP and f"{MLP}-{case.tile}" not in list_shipped_surrogates():
        surrogate: Surrogate = make_random_network(crossbar, architecture.window, architecture.v_max)
        note, trained = "random weights, timed only", False
    else:
        surrogate = load_surrogate(f"{MLP}-{case.tile}" if name == MLP else name)
        if name == MLP and (case.slice_bits, case.stream_bits) != (_MLP_BITS, _MLP_BITS):
            note, trained = f"trained on {_MLP_BITS}-bit cells and streams, timed only", False
    emulator = SurrogateEmulator(surrogate.to(x.device), crossbar)
    return Contender(name, module, x, architecture, emulator, single, note=note, trained=trained)


def takes_part(name: str, case: Case) -> bool:
    """Whether an emulator is timed on a case; the exact circuit is timed on single layers only."""
    return name != CIRCUIT or isinstance(case.workload, Layer)


def _circuit(case: Case, module: nn.Module, x: Tensor, architecture: Architecture, emulator: Emulator) -> Contender:
    assert isinstance(module, nn.Linear | nn.Conv2d)
    (whole,) = observe_products(module, x)
    few = max(1, min(whole.vectors, _FEW * whole.vectors // whole.tile_vectors(architecture)))
    layer, vectors = keep_few_vectors(module, x, few)
    note = "" if few == whole.vectors else f"timed on {few} of {whole.vectors} vectors and scaled to all of them"
    return Contender(
        CIRCUIT, layer, vectors, architecture, emulator, torch.float64, share=few / whole.vectors, note=note
    )
