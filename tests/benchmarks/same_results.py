"""The outputs of converted models for every emulator, layout and scheme, compared with those of another version.

``python tests/benchmarks/same_results.py --save FILE`` writes the outputs of the version that is imported,
``--compare FILE`` compares them bit by bit and prints every difference. The committed reference was saved by the
version before the emulators became modules; ``tests/simulator/test_same_results.py`` holds the present one to it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

import geniex
from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, StoredEmulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import LAYOUTS, OFFSETS, Architecture
from geniex.mitigation import REMAPPINGS, Batch, correct_outputs, remap
from geniex.simulator import CrossbarMatrix, convert, costs, dry_run, vary
from geniex.variation import Drift, NoisyEmulator, ProgrammingError, ReadNoise, StuckCells, Variations

REFERENCE = Path(__file__).with_name("same_results.safetensors")
"""Outputs of the version before the rebuild, from one thread of an x86 CPU."""
_PRESET = geniex.presets["geniex-16"]
_REFUSED = "refused"


def emulators() -> dict[str, Callable[[], Emulator]]:
    """Every kind of emulator for tiles of 16 x 16."""
    crossbar: Crossbar = _PRESET.crossbar
    return {
        "ideal": IdealEmulator,
        "linear": lambda: LinearEmulator(crossbar),
        "circuit": lambda: CircuitEmulator(crossbar),
        "physics": lambda: geniex.SurrogateEmulator("physics", crossbar),
        "physics-fast": lambda: geniex.SurrogateEmulator("physics-fast", crossbar),
        "mlp": lambda: geniex.SurrogateEmulator("geniex-mlp-16", crossbar),
        "stored": lambda: StoredEmulator(LinearEmulator(crossbar), dtype=torch.float16),
        "noisy": lambda: NoisyEmulator(LinearEmulator(crossbar), ReadNoise(relative=0.02), seed=3),
    }


class Network(nn.Module):
    """Convolutions, also grouped and transposed, attention and a classifier, with random weights, some of them 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, stride=2)
        self.spread = nn.ConvTranspose2d(8, 4, 2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.grouped(x))
        tokens = x.flatten(2).transpose(1, 2)
        x = x + self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).unflatten(2, x.shape[2:])
        return self.head(self.spread(x).flatten(1))


def network() -> Network:
    """The seeded network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Network().eval()
        with torch.no_grad():
            model.head.weight[:, 3:9] = 0
            model.conv.weight[2:4] = 0
            model.grouped.weight[:, 1] = 0
    return model


def images(count: int) -> Tensor:
    """Seeded inputs (count, 2, 6, 6), of both signs."""
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def architecture(**changes: object) -> Architecture:
    """An architecture of few bits, so that all of slices, streams and passes occur."""
    settings = {"weight_bits": 6, "slice_bits": 3, "input_bits": 5, "stream_bits": 2, "adc_bits": 10}
    return _PRESET.architecture(**(settings | changes))


def cases() -> Iterator[tuple[str, Callable[[], dict[str, Tensor]]]]:
    """Every case by name, with the function that computes its tensors."""
    for (name, emulator), layout, offset in itertools.product(emulators().items(), range(len(LAYOUTS)), OFFSETS):
        if name == "circuit" and (layout > 1 or offset == "ideal_after"):
            continue  # the same tiles as those of the other emulators, at a hundred times the cost

        def outputs(emulator=emulator, layout=layout, offset=offset) -> dict[str, Tensor]:
            return _converted(architecture(offset=offset), emulator(), layout=LAYOUTS[layout])

        yield f"{name}/layout {layout}/{offset}", outputs
    schemes = {
        "weight_scheme": ("differential", "offset", "twos_complement"),
        "input_scheme": ("passes", "unsigned", "twos_complement"),
        "adc_range": ("auto", "unit", "full_scale", "calibrated"),
        "weight_scale": ("power_of_two", "tensor", "channel"),
    }
    for values in itertools.product(*schemes.values()):
        settings = dict(zip(schemes, values, strict=True))
        offset = "analog_difference" if settings["weight_scheme"] != "twos_complement" else "reference_column"
        settings |= {"offset": offset, "stream_bits": 1 if settings["input_scheme"] == "twos_complement" else 2}

        def outputs(settings=settings) -> dict[str, Tensor]:
            return _converted(architecture(**settings), LinearEmulator(_PRESET.crossbar))

        yield "linear/" + "/".join(values), outputs
    yield (
        "puma",
        lambda: _converted(
            Architecture.puma(tile=(16, 16), window=_PRESET.window, v_max=_PRESET.v_max),
            LinearEmulator(_PRESET.crossbar),
        ),
    )
    yield from _transformed()


def _transformed() -> Iterator[tuple[str, Callable[[], dict[str, Tensor]]]]:
    linear = LinearEmulator(_PRESET.crossbar)
    arch = architecture(adc_range="calibrated")

    def converted(**options: object) -> nn.Module:
        return convert(network(), arch, linear, calibration=images(4), **options)

    def trained() -> dict[str, Tensor]:
        model = converted(trainable=True)
        model(images(2)).square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    def varied() -> dict[str, Tensor]:
        steps = (ProgrammingError((1e-6,)), Drift(1e4, nu=0.05), StuckCells(0.02, 0.01))
        return {"out": vary(converted(), Variations(steps), seed=5)(images(2))}

    def remapped(method: str) -> Callable[[], dict[str, Tensor]]:
        batch = Batch(images(8), torch.arange(8))
        return lambda: {"out": remap(converted(), REMAPPINGS[method], batch).model(images(2))}

    def counted() -> dict[str, Tensor]:
        told = costs(converted(), images(2)).to_dict()
        planned = dry_run(network(), arch, linear, example=images(2)).to_dict()
        numbers = [v for v in told.values() if isinstance(v, int | float)]
        numbers += [v for layer in told["layers"] for v in layer.values() if isinstance(v, int | float)]
        arrays = [layer["arrays"] for layer in planned["layers"] if layer["arrays"] is not None]
        return {"costs": torch.tensor(numbers, dtype=torch.float64), "arrays": torch.tensor(arrays)}

    def matrix() -> dict[str, Tensor]:
        weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(2))
        made = CrossbarMatrix(weight, architecture(adc_bits=None), linear, inputs=2.0)
        return {"out": made(images(2).flatten(1)[:, :50]), "conductances": made.conductances}

    yield "trained", trained
    yield "varied", varied
    yield "corrected", lambda: {"out": correct_outputs(converted(), images(8))(images(2))}
    yield "folded", lambda: {"out": converted(fold=True)(images(2))}
    yield "double", lambda: {"out": converted(dtype=torch.float64)(images(2))}
    yield "counted", counted
    yield "matrix", matrix
    for method in REMAPPINGS:
        yield f"remapped/{method}", remapped(method)


def _converted(arch: Architecture, emulator: Emulator, **options: object) -> dict[str, Tensor]:
    return {"out": convert(network(), arch, emulator, calibration=images(4), **options)(images(2))}


def computed(only: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """All tensors of the cases that ``only`` names, by case and name; a refused case is an empty tensor."""
    found: dict[str, Tensor] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, compute in cases():
            if only(name):
                try:
                    told = compute()
                except (InputError, ConversionError):
                    told = {_REFUSED: torch.empty(0)}
                found |= {f"{name}: {key}": tensor.detach().contiguous() for key, tensor in told.items()}
    return found


def differences(found: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference of each tensor that is not equal to the reference, over its largest magnitude."""
    out: dict[str, float] = {}
    for name, tensor in found.items():
        wanted = reference.get(name)
        if wanted is None or wanted.shape != tensor.shape:
            out[name] = float("inf")
        elif not torch.equal(tensor, wanted):
            scale = wanted.double().abs().amax().clamp(min=1e-300)
            out[name] = float((tensor.double() - wanted.double()).abs().amax() / scale)
    return out


def main() -> int:
    """Save or compare all cases; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="file for the outputs of the imported version")
    parser.add_argument("--compare", type=Path, default=REFERENCE, help="file of another version's outputs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = computed()
    if given.save is not None:
        safetensors.torch.save_file(found, given.save)
        print(f"{len(found)} tensors, {sum(name.endswith(_REFUSED) for name in found)} refused cases: {given.save}")
        return 0
    reference = safetensors.torch.load_file(given.compare)
    unlike = differences(found, reference)
    for name, difference in unlike.items():
        print(f"{difference:9.2e}  {name}")
    missing = sorted(set(reference) - set(found))
    print(f"{len(found) - len(unlike)} of {len(reference)} tensors equal to the bit; missing: {missing or 'none'}")
    return 1 if unlike or missing else 0


if __name__ == "__main__":
    sys.exit(main())
