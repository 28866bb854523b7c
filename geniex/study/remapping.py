"""The accuracy lost in wires that remapping recovers, beside control methods, alone and combined, over networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geniex import __version__
from geniex.config import check_positive_int, check_seed
from geniex.emulator import IdealEmulator, SurrogateEmulator
from geniex.emulator.identity import identity
from geniex.errors import InputError
from geniex.files import is_sealed, parse_json, write_sealed_json
from geniex.jobs import ResultStore, digest
from geniex.mapping import Architecture, Arrangement
from geniex.mitigation import Batch, Remapping, correct_outputs, fine_tune, refit_batch_norm, remap
from geniex.mitigation.batch_norm import has_batch_norms
from geniex.networks import ImageSet
from geniex.networks.images import MovedBatches
from geniex.networks.train import AugmentedBatches, FitConfig
from geniex.preset import Preset
from geniex.simulator import arranged, arrangements, convert
from geniex.study.remap_circuit import LayerCheck, check_layers
from geniex.study.remap_table import Difference, RemapRow, differences, summarised

Progress = Callable[[str, int, int], None]
"""A function called with a description of the current work, the part done and the whole."""

CONTROLS = ("gain", "batch_norm", "fine_tuning")
"""Control methods that mappings are compared and combined with."""
_CALIBRATION = 256
"""Training images that choose the input ranges and fit output gains and batch norms."""
_BATCH = 250
"""Images in one forward pass."""
_STEP = 50
"""Images in one step of fine-tuning."""
_RATE = 1e-3
"""Initial learning rate of fine-tuning."""


@dataclass(frozen=True)
class RemapStudy:
    """The result of ``study_remapping``."""

    rows: tuple[RemapRow, ...]
    """Rows over all networks, one for each mapping and control."""
    by_network: dict[str, tuple[RemapRow, ...]]
    """The same rows for each network alone."""
    differences: tuple[Difference, ...]
    """Differences between mappings, over the same images and networks."""
    circuit: tuple[LayerCheck, ...]
    """Output errors of each layer, by the surrogate and by the exact circuit; empty if no check was asked for."""
    configuration: dict[str, Any] = field(repr=False)

    def row(self, method: str, control: str | None = None) -> RemapRow:
        """The row of a method and a control, over all networks."""
        for row in self.rows:
            if (row.method, row.control) == (method, control):
                return row
        raise InputError("method", repr((method, control)), f"rows are {[(r.method, r.control) for r in self.rows]}")

    def to_dict(self) -> dict[str, Any]:
        """The study as JSON-ready plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class RemapSetting:
    """All settings of a remapping study apart from the networks."""

    preset: Preset
    architecture: Architecture
    surrogate: str
    methods: Mapping[str, Remapping]
    """Remappings by name; "none", the unchanged mapping, must be among them."""
    controls: Sequence[str] = ("gain", "batch_norm")
    """Controls from ``CONTROLS``; each is combined with "none" and with other methods, see the next two fields."""
    combined: Sequence[str] = ()
    """Methods that are combined with the controls other than fine-tuning."""
    fine_tuned: Sequence[str] = ()
    """Methods that are combined with fine-tuning, which takes longest."""
    images: int | None = None
    """Number of test images; None takes all."""
    combined_images: int | None = None
    """Number of test images for rows with a control, the first of ``images``; None takes all of ``images``."""
    calibration_images: int = 256
    """Number of training images that mappings are rated on."""
    steps: int = 20
    """Steps of fine-tuning."""
    circuit_positions: int = 0
    """Sampled inputs of each layer of the first network on which the exact circuit is solved; 0 skips this check."""
    seed: int = 0
    """Seed of all choices of images."""

    def __post_init__(self) -> None:
        if "none" not in self.methods:
            raise InputError("methods", list(self.methods), "'none' must be there, or nothing is known of the drop")
        for name, given, allowed in (
            ("controls", self.controls, CONTROLS),
            ("combined", self.combined, tuple(self.methods)),
            ("fine_tuned", self.fine_tuned, tuple(self.methods)),
        ):
            for value in given:
                if value not in allowed:
                    raise InputError(name, repr(value), f"it must be one of {', '.join(allowed)}")
        for name in ("images", "combined_images"):
            if getattr(self, name) is not None:
                check_positive_int(name, getattr(self, name))
        check_positive_int("calibration_images", self.calibration_images, maximum=_CALIBRATION)
        check_positive_int("steps", self.steps)
        if not isinstance(self.circuit_positions, int) or self.circuit_positions < 0:
            raise InputError("circuit_positions", self.circuit_positions, "a whole number, 0 for none")
        check_seed(self.seed)

    def cells(self) -> list[tuple[str, str | None]]:
        """All pairs of mapping and control, in the order of the table."""
        plain: list[tuple[str, str | None]] = [(method, None) for method in self.methods]
        with_control = [m for m in self.methods if m == "none" or m in self.combined]
        for control in self.controls:
            tuned = [m for m in self.methods if m in ("none", *self.fine_tuned)]
            plain += [(m, control) for m in (tuned if control == "fine_tuning" else with_control)]
        return plain


def study_remapping(
    networks: Mapping[str, nn.Module],
    training: ImageSet,
    tests: ImageSet,
    setting: RemapSetting,
    *,
    device: torch.device | str = "cpu",
    work: Path | None = None,
    progress: Progress | None = None,
) -> RemapStudy:
    """The share of the accuracy lost from ideal tiles to tiles with wires that mappings and controls recover.

    Every row has the recovered share of the drop with intervals over the networks and over the images. Mappings are
    compared in pairs on the same images. With ``work`` logits and mappings are kept in that folder as soon as they are
    known: a killed study can go on, and several processes, each with a study of one network, can fill one folder.

    Args:
        networks: classifiers by name, e.g. several trainings of one architecture.
        training: images for calibration and fine-tuning.
        tests: images to classify.
        setting: circuit, number formats, methods and controls.
        device: device to compute on.
        work: folder of kept results.
        progress: called as the study goes on.
    """
    if not networks:
        raise InputError("networks", "none", "give at least one")
    bare = [name for name, network in networks.items() if not has_batch_norms(network)]
    if "batch_norm" in setting.controls and bare:
        raise InputError("controls", "'batch_norm'", f"{', '.join(bare)} has no batch norm to refit")
    say = progress or (lambda what, done, whole: None)
    count = len(tests) if setting.images is None else setting.images
    chosen = tests if count == len(tests) else tests.subset(count, setting.seed)
    calibration = training.subset(min(_CALIBRATION, len(training)), setting.seed)
    right: dict[str, dict[str, Tensor]] = {}
    checks: tuple[LayerCheck, ...] = ()
    for name, network in networks.items():
        one = _OneNetwork(name, network, training, chosen, calibration, setting, torch.device(device), work, say)
        right[name] = one.run()
        if setting.circuit_positions and not checks:
            checks = one.checked()
    cells = setting.cells()
    return RemapStudy(
        summarised(right, cells),
        {name: summarised({name: found}, cells) for name, found in right.items()},
        differences(right, list(setting.methods)),
        checks,
        _configuration(setting, list(networks), len(chosen)),
    )


class _OneNetwork:
    """The study of one network, which gives all its rows."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        training: ImageSet,
        tests: ImageSet,
        calibration: ImageSet,
        setting: RemapSetting,
        device: torch.device,
        work: Path | None,
        say: Progress,
    ) -> None:
        self.name, self.training, self.setting, self.work, self.say = name, training, setting, work, say
        self.network, self.device = copy.deepcopy(network).eval().to(device), device
        self.images, self.labels = (x.to(device) for x in tests.batch(torch.arange(len(tests))))
        self.calibration = [x.to(device) for x in calibration.batch(torch.arange(len(calibration)))]
        self.emulator = SurrogateEmulator(setting.surrogate, setting.preset.crossbar)
        self.store = ResultStore(work, "geniex-remapping-1")
        told = [identity(self.emulator)[0], setting.architecture.to_dict(), setting.seed, __version__]
        self.key = digest(dict(network.state_dict()), repr(network), *self.calibration, told)
        self._base: nn.Module | None = None
        self._mapped: dict[str, nn.Module] = {}

    def run(self) -> dict[str, Tensor]:
        """Whether each image is classified correctly (images,), bool, by row."""
        setting = self.setting
        ideal = partial(convert, self.network, setting.architecture, IdealEmulator(), calibration=self.calibration[0])
        right = {
            "float": self._right("float", [], lambda: self.network, None),
            "ideal": self._right("ideal", [], ideal, None),
        }
        for method, control in setting.cells():
            label = row_label(method, control)
            told = [setting.methods[method].to_dict(), setting.calibration_images, control]
            told += [setting.steps] if control == "fine_tuning" else []
            limit = None if control is None else setting.combined_images
            right[label] = self._right(label, told, partial(self._built, method, control), limit)
        return right

    def checked(self) -> tuple[LayerCheck, ...]:
        """The output errors of each layer under each mapping, by the surrogate and by the exact circuit."""
        batch = Batch(self.calibration[0][:32], self.calibration[1][:32])
        told = [list(self.setting.methods), [m.to_dict() for m in self.setting.methods.values()]]
        path = self._kept("circuit", [told, self.setting.circuit_positions, self.setting.calibration_images])
        if (kept := _read(path)) is not None:
            return tuple(LayerCheck(**row) for row in kept)
        models = {method: self._remapped(method, keep=True) for method in self.setting.methods}
        found = check_layers(
            models,
            self.setting.preset.crossbar,
            batch,
            positions=self.setting.circuit_positions,
            seed=self.setting.seed,
            progress=lambda done, whole: self.say("exact circuit", done, whole),
        )
        if path is not None:
            write_sealed_json(path, {"kept": [asdict(check) for check in found]}, indent=1)
        return found

    def _right(self, label: str, told: list[Any], build: Callable[[], nn.Module], limit: int | None) -> Tensor:
        images = self.images if limit is None else self.images[:limit]
        what = f"{self.name}, {label}"
        key = digest(self.key, told, images)

        held = self.store.load_tensors(what, key)
        if held is None:
            with torch.no_grad():
                model, parts = build(), []
                for part in images.split(_BATCH):
                    parts.append(model(part))
                    self.say(what, sum(map(len, parts)), len(images))
            held = {"logits": torch.cat(parts)}
            self.store.keep_tensors(what, key, held)
        return (held["logits"].argmax(-1).to(self.device) == self.labels[: len(images)]).cpu()

    def _built(self, method: str, control: str | None) -> nn.Module:
        if control == "fine_tuning":
            return self._fine_tuned(method)
        model = self._remapped(method)
        if control == "gain":
            return correct_outputs(model, self.calibration[0])
        return refit_batch_norm(model, self.calibration[0]) if control == "batch_norm" else model

    def _converted(self, **options: Any) -> nn.Module:
        arch, images = self.setting.architecture, self.calibration[0]
        return convert(self.network, arch, self.emulator, calibration=images, **options)

    def _remapped(self, method: str, keep: bool = False) -> nn.Module:
        """The network as a method maps it; the last one is held in memory, and its arrangement is kept on disk."""
        if method in self._mapped:
            return self._mapped[method]
        if not keep:
            self._mapped.clear()
        if self._base is None:
            self._base = self._converted()
        remapping = self.setting.methods[method]
        path = self._kept("places", [remapping.to_dict(), self.setting.calibration_images])
        if (kept := _read(path)) is not None:
            model = arranged(self._base, {name: Arrangement.of(**places) for name, places in kept.items()})
        else:
            count = self.setting.calibration_images
            batch = Batch(self.calibration[0][:count], self.calibration[1][:count])
            made = remap(
                self._base,
                remapping,
                batch,
                progress=lambda n, done, whole: self.say(f"{self.name}, {method}: mapping", done, whole),
            )
            model = made.model
            if path is not None:
                told = {name: places.to_dict() for name, places in arrangements(model).items()}
                write_sealed_json(path, {"kept": told})
        self._mapped[method] = model
        return model

    def _fine_tuned(self, method: str) -> nn.Module:
        places = arrangements(self._remapped(method))
        model = arranged(self._converted(trainable=True), places)
        settings = FitConfig(batch=_STEP, seed=self.setting.seed)
        fine_tune(
            model,
            MovedBatches(AugmentedBatches(self.training, settings), self.device),
            steps=self.setting.steps,
            learning_rate=_RATE,
            gradients="ideal",
            progress=lambda done, whole, loss: self.say(f"{self.name}, {method}: fine-tuning", done, whole),
        )
        return model

    def _kept(self, what: str, told: list[Any]) -> Path | None:
        return None if self.work is None else self.work / f"{what}-{digest(self.key, told)[:16]}.json"


def _read(path: Path | None) -> Any | None:
    """The content of a JSON file; None if the file is missing, incomplete or changed."""
    if path is None:
        return None
    try:
        held = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return held["kept"] if is_sealed(held) else None


def row_label(method: str, control: str | None) -> str:
    """The name of a row."""
    return method if control is None else f"{method} + {control}"


def _configuration(setting: RemapSetting, networks: list[str], images: int) -> dict[str, Any]:
    return {
        "geniex_version": __version__,
        "torch_version": torch.__version__,
        "networks": networks,
        "preset": setting.preset.to_dict(),
        "architecture": setting.architecture.to_dict(),
        "surrogate": setting.surrogate,
        "methods": {name: remapping.to_dict() for name, remapping in setting.methods.items()},
        "controls": list(setting.controls),
        "combined": list(setting.combined),
        "fine_tuned": list(setting.fine_tuned),
        "images": images,
        "combined_images": setting.combined_images,
        "calibration_images": setting.calibration_images,
        "steps": setting.steps,
        "circuit_positions": setting.circuit_positions,
        "seed": setting.seed,
    }
