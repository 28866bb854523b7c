"""Groups of a study's settings that apply as a whole or not at all: pruning, fine-tuning, and a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from geniex.config import Config, check_number, check_positive_int
from geniex.errors import InputError
from geniex.mitigation.prune.prune import Method
from geniex.mitigation.prune.tiles import Criterion, Scope
from geniex.simulator.matrix import Gradients


@dataclass(frozen=True, kw_only=True)
class Pruning(Config):
    """Pruning by ``geniex.mitigation.prune``, without training afterwards."""

    method: Method
    """Structure of the pruning: "cf" (channels and filters), "xcs" (crossbar column sparsity: columns of tiles), or
    "xrs" (crossbar row sparsity: rows of tiles)."""
    sparsity: float = 0.5
    """Share of the weights that are removed."""
    tile: tuple[int, int] | None = None
    """Inputs and outputs of a tile; None takes the architecture's."""
    criterion: Criterion = "l1"
    """Norm that ranks the pieces; the ones with the smallest norm are removed."""
    scope: Scope = "layer"
    """Set in which pieces are ranked: each "layer" separately, or all layers together ("global")."""
    skip: tuple[str, ...] = ()
    """Layers that are not pruned."""

    def __post_init__(self) -> None:
        for name, kind in (("method", Method), ("criterion", Criterion), ("scope", Scope)):
            if getattr(self, name) not in get_args(kind):
                allowed = f"it must be one of {', '.join(get_args(kind))}"
                raise InputError(f"prune.{name}", repr(getattr(self, name)), allowed)
        check_number("prune.sparsity", self.sparsity, low=0.0)
        if self.sparsity >= 1:
            raise InputError("prune.sparsity", self.sparsity, "it must be below 1")
        if self.tile is not None:
            object.__setattr__(self, "tile", read_pair("prune.tile", self.tile))
        object.__setattr__(self, "skip", read_words("prune.skip", self.skip))


@dataclass(frozen=True, kw_only=True)
class EmulatorCheck(Config):
    """A check by another emulator, which reads the same arrays with the same scales."""

    emulator: str
    """Emulator that checks: "ideal", "linear", "circuit", or the name or path of a surrogate."""
    images: int = 100
    """Number of test images that it classifies, the first ones."""

    def __post_init__(self) -> None:
        if not isinstance(self.emulator, str):
            raise InputError("check.emulator", repr(self.emulator), "it must be the name of an emulator")
        check_positive_int("check.images", self.images)


@dataclass(frozen=True, kw_only=True)
class FineTuning(Config):
    """The settings of the mitigation "fine_tuning"."""

    steps: int = 20
    """Number of training steps."""
    batch: int = 50
    """Images in one step."""
    learning_rates: tuple[float, ...] = (1e-3,)
    """Learning rates of the first step. With several, each trains a copy, and the copy with the lowest loss on the
    images left out is kept."""
    gradients: Gradients = "ideal"
    """Source of the gradients: "emulator" for the crossbars' own derivatives, "ideal" for those of ideal crossbars. The
    loss of both is on the crossbars' outputs."""
    left_out: int = 0
    """Training images that are left out of training, the first in the order of the seed; the loss on them compares
    learning rates. With 0, all training images are learnt."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            check_positive_int(f"fine_tuning.{name}", getattr(self, name))
        rates = self.learning_rates
        rates = tuple(rates) if isinstance(rates, list | tuple) else (rates,)
        for rate in rates:
            check_number("fine_tuning.learning_rates", rate, low=0.0, open_low=True)
        object.__setattr__(self, "learning_rates", rates)
        if not rates or len(set(rates)) < len(rates):
            raise InputError("fine_tuning.learning_rates", list(rates), "give at least one rate, and each rate once")
        if self.gradients not in get_args(Gradients):
            allowed = f"it must be one of {', '.join(get_args(Gradients))}"
            raise InputError("fine_tuning.gradients", repr(self.gradients), allowed)
        if isinstance(self.left_out, bool) or not isinstance(self.left_out, int) or self.left_out < 0:
            raise InputError("fine_tuning.left_out", repr(self.left_out), "it must be a whole number of images, or 0")
        if len(rates) > 1 and not self.left_out:
            allowed = "several learning rates are compared on left-out training images: give their number"
            raise InputError("fine_tuning.left_out", 0, allowed)

    def check_images(self, count: int) -> None:
        """Raise ``InputError`` unless ``count`` training images are enough for one batch beside those left out."""
        if count - self.left_out < self.batch:
            given = f"{self.batch}, with {self.left_out} images left out"
            raise InputError("fine_tuning.batch", given, f"there are {count} training images")


def read_pair(name: str, value: Any) -> tuple[int, int]:
    """The pair (inputs, outputs) that ``value`` gives for the setting ``name``; one number stands for both."""
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2:
        raise InputError(name, repr(value), "it must be a number, or [inputs, outputs]")
    for size in pair:
        check_positive_int(name, size)
    return pair


def read_words(name: str, value: Any, least: int = 0) -> tuple[str, ...]:
    """The words that ``value``, a word or a list of words, gives for the setting ``name``."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, Sequence) or len(words) < least or not all(isinstance(word, str) for word in words):
        raise InputError(name, repr(value), "it must be a name, or a list of names")
    if len(set(words)) < len(words):
        raise InputError(name, repr(value), "each name may occur only once")
    return tuple(words)
