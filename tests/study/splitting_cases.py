"""A classifier that makes splitting hard, and the prediction of its accuracy; worker processes import it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, StoredEmulator
from geniex.mapping import Architecture
from geniex.simulator import convert
from geniex.study.accuracy import Prediction, predict_accuracy
from geniex.study.monte_carlo import Accuracy
from geniex.variation import ConductanceSpread, Variations

CROSSBAR = Crossbar(8, 8, r_wire=200.0)
ARCH = Architecture(tile=(8, 8), weight_bits=8, input_bits=8)
SPREAD = Variations((ConductanceSpread(0.3),))


class Shaky(nn.Module):
    """It draws random numbers; given a file's path, the first worker process dies that uses it while there is none."""

    def __init__(self, flag: Path | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flag, self.hidden, self.head = flag, nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.flag is not None and multiprocessing.parent_process() is not None and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.relu(self.hidden(x.flatten(1)))
        return self.head(x) + 0.1 * torch.rand(len(x), 4)


def loader() -> list[tuple[Tensor, Tensor]]:
    """Images of two shapes, so that they go in groups: 37 of (12,) and 23 of (3, 4)."""
    generator = torch.Generator().manual_seed(1)
    shapes = (37, 12), (23, 3, 4)
    return [(torch.rand(s, generator=generator), torch.randint(4, s[:1], generator=generator)) for s in shapes]


def predicted(model: nn.Module, **options: Any) -> Prediction:
    images = loader()
    return predict_accuracy(
        model, images, crossbar=CROSSBAR, architecture=ARCH, circuit_images=40, calibration=images[0][0], **options
    )


def timeless(prediction: Prediction) -> dict[str, Any]:
    """The prediction without its seconds."""
    told = prediction.to_dict()
    for stage in told["stages"]:
        del stage["seconds"], stage["images_per_second"]
    return told


def converted() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    return convert(network, ARCH, StoredEmulator(CircuitEmulator(CROSSBAR)), calibration=loader()[0][0])


def accuracy() -> Accuracy:
    return Accuracy.of(loader(), batch=7)


def main(work: Path) -> None:
    """A prediction that is killed, with its workers, when the circuit has seen 16 images."""

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "circuit" and done >= 16:
            os.killpg(0, signal.SIGKILL)

    predicted(Shaky(), work=work, workers=2, progress=kill)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
