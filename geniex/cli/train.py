"""``geniex train``: from a sweep file to a surrogate's checkpoint."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from geniex.cli._files import check_folder
from geniex.config import check_positive_int


def train(
    data: Path,
    out: Path = Path("runs/mlp"),
    epochs: int = 60,
    hidden: int = 500,
    batch_tiles: int = 64,
    lr: float = 6e-3,
    weight_decay: float = 0.1,
    seed: int = 0,
    num_workers: int = 0,
    fast_dev_run: bool = False,
    log_dir: Path | None = None,
) -> None:
    """Train the GENIEx network on a sweep; writes OUT.safetensors and OUT.json.

    Args:
        data: the HDF5 file that geniex sweep made.
        out: the checkpoint's path, without suffix.
        epochs: passes over the training tiles; the best one on the validation tiles is kept.
        hidden: ReLU units of the hidden layer.
        batch_tiles: tiles a step, each with all its vectors.
        lr: highest learning rate.
        weight_decay: decoupled weight decay.
        seed: seed of the split by tile, the initial weights and the shuffling.
        num_workers: processes that read the data; 0 reads in this one, which is fastest where it fits in memory.
        fast_dev_run: one batch only, to see that everything runs.
        log_dir: folder for a CSV of the validation error.
    """
    check_positive_int("epochs", epochs)
    check_folder("out", out.parent)
    check_folder("log_dir", log_dir)
    with Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=(console := Console(stderr=True)),
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("loading", total=epochs)
        from geniex.surrogate import TrainConfig, save_surrogate, train_surrogate  # lightning takes seconds to import

        surrogate = train_surrogate(
            data,
            TrainConfig(hidden, epochs, batch_tiles, lr, weight_decay, seed),
            num_workers=num_workers,
            fast_dev_run=fast_dev_run,
            log_dir=log_dir,
            on_epoch=lambda epoch, figure: bar.update(
                task, completed=epoch, description=f"validation NF-RMSE {figure:.3f} pp"
            ),
        )
    path = save_surrogate(surrogate, out)
    held_out, split = surrogate.info["held_out"], surrogate.info["split"]
    print(
        f"{path}: NF-RMSE {held_out['nf_rmse_pp']:.3f} pp on {split['test']} held-out tiles"
        f" (ideal product {held_out['ideal_nf_rmse_pp']:.3f} pp)"
    )
