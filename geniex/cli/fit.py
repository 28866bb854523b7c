"""``geniex fit``: train a small network."""

from __future__ import annotations

from pathlib import Path


def fit(
    network: str = "fashion-cnn",
    data: str = "fashion-mnist",
    epochs: int = 20,
    seed: int = 0,
    root: Path | None = None,
    out: Path = Path("fashion-cnn"),
) -> None:
    """Train a network and save it with its batch norms folded, as OUT.safetensors and OUT.json.

    Args:
        network: the architecture; "fashion-cnn".
        data: the image set; geniex doctor tells which are there.
        epochs: passes over the training images.
        seed: seed of the weights, the image order and the augmentation.
        root: folder of the image set; the default looks in the usual places and downloads.
        out: the files' common stem.
    """
    from geniex import __version__
    from geniex.cli._files import check_folder
    from geniex.networks import load_images, save_network
    from geniex.networks.checkpoint import network_class
    from geniex.networks.train import FitConfig, accuracy, train_network

    config = FitConfig(epochs=epochs, seed=seed)
    network_class(network)
    images, tests = (load_images(data, train=train, root=root) for train in (True, False))
    check_folder("out", out.parent)
    trained = train_network(network, images, config, progress=True).folded()
    share = accuracy(trained, tests)
    info = {
        "accuracy": share,
        "test_images": len(tests),
        "training_images": len(images),
        "data": data,
        "settings": config.to_dict(),
        "geniex_version": __version__,
    }
    save_network(trained, out, info)
    saved = f"{out}.safetensors and {out}.json"
    print(f"{network}: {100 * share:.2f} % of {len(tests)} test images; saved {saved}")
