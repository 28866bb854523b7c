"""``geniex fit``: train a small network, or prune a trained one or cut its weights, and continue its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

_Constraint = Any
"""``geniex.networks.Constraint``: jsonargparse would import it, and torch, even under TYPE_CHECKING."""
_RATE = 0.002
"""Peak learning rate for a network that is trained already: the rate of a first training would undo much of it."""


def fit(
    network: str | None = None,
    data: str = "fashion-mnist",
    epochs: int = 20,
    learning_rate: float | None = None,
    batch: int = 128,
    seed: int = 0,
    start: str | None = None,
    prune: Literal["cf", "xcs", "xrs"] | None = None,
    sparsity: float = 0.8,
    tile: int = 128,
    tile_outputs: int | None = None,
    criterion: Literal["l1", "l2"] = "l1",
    scope: Literal["layer", "global"] = "layer",
    skip: list[str] | None = None,
    w_cut: float | None = None,
    images: int | None = None,
    device: str | None = None,
    data_root: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train a network and save it as OUT.safetensors and OUT.json; with --start, prune or constrain a trained one.

    Args:
        network: architecture of the network, such as fashion-vgg or cifar10-vgg16; a wrong name lists all;
            fashion-cnn if not given.
        data: image set to train on; geniex doctor lists those on this machine.
        epochs: passes over the training images.
        learning_rate: peak of the one-cycle schedule; if not given 0.005, or 0.002 with --start.
        batch: images per step.
        seed: seed for the initial weights, the order of the images and their augmentation.
        start: trained network to continue from, a shipped name or a checkpoint's path; its pruned weights stay 0.
        prune: what to prune before training: filters with their channels (cf), columns of crossbar tiles (xcs,
            crossbar-column sparsity) or rows of crossbar tiles (xrs, crossbar-row sparsity).
        sparsity: share of the weights that is pruned.
        tile: inputs (word lines) of a tile, for xcs and xrs.
        tile_outputs: outputs of a tile, each with all its slices; as many as inputs if not given.
        criterion: measure by which the weakest pieces are pruned: mean magnitude (l1) or root mean square (l2).
        scope: prune the weakest pieces of each layer (layer), or of the whole network (global).
        skip: layer that is not pruned, by name or by a pattern with *; repeat the option for several.
        w_cut: limit weights to this share of their layer's largest weight before the cut; the file records that largest
            weight, by which conductances must then be scaled.
        images: number of training images to use, drawn at random with the seed; all if not given.
        device: device to train on, such as cpu or cuda; the fastest one available if not given.
        data_root: folder of the image set; if not given, the usual places are searched and the set is downloaded.
        out: common stem of the files; if not given, the network's name with the prunings and cuts applied.
    """
    from geniex import __version__
    from geniex.cli._device import check_device
    from geniex.cli._files import check_folder
    from geniex.errors import InputError
    from geniex.networks import Constraint, load_images, network_name, save_network
    from geniex.networks.train import FitConfig, accuracy, retrain_network, train_network
    from geniex.networks.zoo import network_kind

    rate = learning_rate if learning_rate is not None else _RATE if start else FitConfig.learning_rate
    config = FitConfig(epochs=epochs, batch=batch, learning_rate=rate, seed=seed)
    if start is None:
        for option, given in (("prune", prune), ("w_cut", w_cut)):
            if given is not None:
                raise InputError(option, repr(given), "it applies to a trained network: give --start, too")
        network = "fashion-cnn" if network is None else network
        network_kind(network)
    else:
        if network not in (None, network_name(start)):
            raise InputError("network", repr(network), f"the network in {start} is a {network_name(start)}")
        network = network_name(start)
    where = None if device is None else check_device(device)
    first, constraint, told = None, Constraint(), dict[str, Any]()
    if start is not None:
        how = {"tile": (tile, tile_outputs or tile), "criterion": criterion, "scope": scope, "skip": skip or []}
        first = _Start(start, w_cut)
        if prune is not None:
            first.prune(prune, sparsity, **how)
        constraint, told = first.constraint(), first.told
    training, tests = (load_images(data, train=train, root=data_root) for train in (True, False))
    if images is not None:
        if not 1 <= images <= len(training):
            raise InputError("images", images, f"it must be 1 to {len(training)}, the number of training images")
        training = training.subset(images, seed)
    out = Path(_stem(network, start, prune, w_cut)) if out is None else out
    check_folder("out", out.parent)
    if first is None:
        trained, masks = train_network(network, training, config, progress=True, device=where), None
    else:
        options: dict[str, Any] = {"constraint": constraint, "progress": True, "device": where}
        trained, masks = retrain_network(first.network, training, config, **options), constraint.masks
    share = accuracy(trained, tests)
    info = {
        "accuracy": share,
        "test_images": len(tests),
        "training_images": len(training),
        "data": data,
        "settings": config.to_dict(),
        **told,
        "geniex_version": __version__,
    }
    saved = " and ".join(map(str, save_network(network, trained, out, info, masks=masks)))
    print(f"{out.name}: accuracy {100 * share:.2f} % of {len(tests)} test images; saved {saved}")


class _Start:
    """A trained network whose training continues, possibly pruned, and the constraints on its weights."""

    def __init__(self, start: str, w_cut: float | None) -> None:
        from geniex.config import check_number
        from geniex.networks import load_network, network_info, network_masks

        if w_cut is not None:
            check_number("w_cut", w_cut, low=0.0, high=1.0, open_low=True)
        self.network = load_network(start)
        self.masks, before = network_masks(start), network_info(start)
        self.w_cut: float | None = before.get("w_cut") if w_cut is None else w_cut
        self.told: dict[str, Any] = {"start": Path(start).name, "start_accuracy": before.get("accuracy")}
        # Earlier prunings and cuts still hold.
        self.told |= {name: before[name] for name in ("pruning", "w_cut", "weight_full_scale") if name in before}

    def prune(self, method: Any, sparsity: float, **how: Any) -> None:
        """Prune the network; raises ``InputError`` if it is pruned already."""
        from geniex.errors import InputError
        from geniex.mitigation import prune

        if self.masks or "pruning" in self.told:
            raise InputError(
                "prune",
                repr(method),
                f"{self.told['start']} is pruned already: leave the option out to train it further",
            )
        pruned = prune(self.network, method, sparsity, **how)
        self.network, self.masks = pruned.model, pruned.masks  # type: ignore[assignment]
        asked = {"sparsity": sparsity, "criterion": how["criterion"], "scope": how["scope"], "skip": how["skip"]}
        self.told["pruning"] = {"asked": asked} | pruned.to_dict()

    def constraint(self) -> _Constraint:
        """The masks and the limits of W_cut; the latter are also recorded in ``told``."""
        from geniex.mitigation import weight_cut, weight_full_scales
        from geniex.networks import Constraint

        if self.w_cut is None:
            return Constraint(masks=self.masks)
        scales = self.told.get("weight_full_scale") or weight_full_scales(self.network)
        self.told |= {"w_cut": self.w_cut, "weight_full_scale": scales}
        limits = weight_cut(self.network, {name: self.w_cut * scale for name, scale in scales.items()}).limits
        return Constraint(masks=self.masks, limits=limits)


def _stem(network: str, start: str | None, prune: str | None, w_cut: float | None) -> str:
    """The default stem of the files."""
    parts = [network if start is None else Path(start).stem, prune, None if w_cut is None else "wct"]
    return "-".join(part for part in parts if part)
