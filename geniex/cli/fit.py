"""``geniex fit``: train a small network, or prune a trained one, cut its weights, and train it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

_Constraint = Any
"""``geniex.networks.Constraint``: jsonargparse would import it, and torch, even under TYPE_CHECKING."""
_RATE = 0.002
"""Peak learning rate where a trained network is trained on: a first training's would undo much of what it knows."""


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
    root: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train a network and save it as OUT.safetensors and OUT.json; with START, prune or constrain a trained one.

    Args:
        network: the architecture, such as fashion-vgg or cifar10-vgg16; a wrong name lists them; fashion-cnn if not
            given.
        data: the image set; geniex doctor tells which are there.
        epochs: passes over the training images.
        learning_rate: peak of the one-cycle schedule; 0.005, or 0.002 with ``start``, if not given.
        batch: images a step.
        seed: seed of the weights, the image order and the augmentation.
        start: a shipped network, or the path of one, to train on instead of a new one; what was pruned of it stays 0.
        prune: take weights away before that: channels (cf), or columns (xcs) or rows (xrs) of crossbar tiles.
        sparsity: share of the weights that pruning takes.
        tile: inputs, that is word lines, of a tile, for xcs and xrs.
        tile_outputs: outputs of a tile, with all their slices; as many as inputs if not given.
        criterion: the weakest pieces have the least mean magnitude (l1) or root mean square (l2).
        scope: the weakest of each layer, or of the network (global).
        skip: a layer's name, or a pattern with a star, that is not pruned; give the option once for each.
        w_cut: keep weights within this share of each layer's largest one, as it is before; the file tells that one, by
            which conductances are to be scaled then.
        images: train on so many of the training images, drawn with ``seed``; all if not given.
        device: where to train, such as cpu or cuda; the fastest that there is if not given.
        root: folder of the image set; the default looks in the usual places and downloads.
        out: the files' common stem; the network's name, with what was done to it, if not given.
    """
    from geniex import __version__
    from geniex.cli._device import checked_device
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
                raise InputError(option, repr(given), "it is for a trained network: give --start")
        network = "fashion-cnn" if network is None else network
        network_kind(network)
    else:
        if network not in (None, network_name(start)):
            raise InputError("network", repr(network), f"{start} is a {network_name(start)}")
        network = network_name(start)
    where = None if device is None else checked_device(device)
    first, constraint, told = None, Constraint(), dict[str, Any]()
    if start is not None:
        how = {"tile": (tile, tile_outputs or tile), "criterion": criterion, "scope": scope, "skip": skip or []}
        first = _Start(start, w_cut)
        if prune is not None:
            first.prune(prune, sparsity, **how)
        constraint, told = first.constraint(), first.told
    training, tests = (load_images(data, train=train, root=root) for train in (True, False))
    if images is not None:
        if not 1 <= images <= len(training):
            raise InputError("images", images, f"give 1 to {len(training)}, the training images that there are")
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
    print(f"{out.name}: {100 * share:.2f} % of {len(tests)} test images; saved {saved}")


class _Start:
    """A trained network on its way to be trained on: pruned, perhaps, and with what is to hold of its weights."""

    def __init__(self, start: str, w_cut: float | None) -> None:
        from geniex.config import check_number
        from geniex.errors import InputError
        from geniex.networks import load_network, network_info, network_masks

        if w_cut is not None:
            check_number("w_cut", w_cut, low=0.0, open_low=True)
            if w_cut > 1:
                raise InputError("w_cut", w_cut, "it is a share of the largest weight, at most 1")
        self.network = load_network(start)
        self.masks, before = network_masks(start), network_info(start)
        self.w_cut: float | None = before.get("w_cut") if w_cut is None else w_cut
        self.told: dict[str, Any] = {"start": Path(start).name, "start_accuracy": before.get("accuracy")}
        # What was done to it is so still.
        self.told |= {name: before[name] for name in ("pruning", "w_cut", "weight_full_scale") if name in before}

    def prune(self, method: Any, sparsity: float, **how: Any) -> None:
        """Prune the network; what was masked before stays masked."""
        from geniex.errors import InputError
        from geniex.mitigation import prune

        if self.masks or "pruning" in self.told:
            raise InputError("prune", repr(method), f"{self.told['start']} is pruned already: train it on without")
        pruned = prune(self.network, method, sparsity, **how)
        self.network, self.masks = pruned.model, pruned.masks  # type: ignore[assignment]
        asked = {"sparsity": sparsity, "criterion": how["criterion"], "scope": how["scope"], "skip": how["skip"]}
        self.told["pruning"] = {"asked": asked} | pruned.to_dict()

    def constraint(self) -> _Constraint:
        """Masks, and the limits of W_cut, of which ``told`` is told."""
        from geniex.mitigation import weight_cut, weight_full_scales
        from geniex.networks import Constraint

        if self.w_cut is None:
            return Constraint(masks=self.masks)
        scales = self.told.get("weight_full_scale") or weight_full_scales(self.network)
        self.told |= {"w_cut": self.w_cut, "weight_full_scale": scales}
        limits = weight_cut(self.network, {name: self.w_cut * scale for name, scale in scales.items()}).limits
        return Constraint(masks=self.masks, limits=limits)


def _stem(network: str, start: str | None, prune: str | None, w_cut: float | None) -> str:
    """What the files are called by default."""
    parts = [network if start is None else Path(start).stem, prune, None if w_cut is None else "wct"]
    return "-".join(part for part in parts if part)
