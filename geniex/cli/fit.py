"""``geniex fit``: train a small network."""

from __future__ import annotations

from pathlib import Path


def fit(
    network: str = "fashion-cnn",
    data: str = "fashion-mnist",
    epochs: int = 20,
    seed: int = 0,
    root: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train a network and save it as OUT.safetensors and OUT.json.

    Args:
        network: the architecture, such as fashion-vgg or cifar10-vgg16; a wrong name lists them.
        data: the image set; geniex doctor tells which are there.
        epochs: passes over the training images.
        seed: seed of the weights, the image order and the augmentation.
        root: folder of the image set; the default looks in the usual places and downloads.
        out: the files' common stem; the network's name if not given.
    """
    from geniex import __version__
    from geniex.cli._files import check_folder
    from geniex.networks import load_images, save_network
    from geniex.networks.train import FitConfig, accuracy, train_network
    from geniex.networks.zoo import network_kind

    config = FitConfig(epochs=epochs, seed=seed)
    network_kind(network)
    images, tests = (load_images(data, train=train, root=root) for train in (True, False))
    out = Path(network) if out is None else out
    check_folder("out", out.parent)
    trained = train_network(network, images, config, progress=True)
    share = accuracy(trained, tests)
    info = {
        "accuracy": share,
        "test_images": len(tests),
        "training_images": len(images),
        "data": data,
        "settings": config.to_dict(),
        "geniex_version": __version__,
    }
    saved = " and ".join(map(str, save_network(network, trained, out, info)))
    print(f"{network}: {100 * share:.2f} % of {len(tests)} test images; saved {saved}")
