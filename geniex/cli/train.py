"""``geniex train``: from a sweep file to a surrogate's checkpoint."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from geniex.cli._files import check_file, check_folder
from geniex.config import check_positive_int
from geniex.errors import InputError


def train(
    data: Path,
    family: Literal["geniex-mlp", "physics", "physics-fast"] = "geniex-mlp",
    out: Path = Path("runs/mlp"),
    epochs: int = 60,
    hidden: int = 500,
    batch_tiles: int = 64,
    lr: float = 6e-3,
    weight_decay: float = 0.1,
    patience: int | None = None,
    half: bool = False,
    seed: int = 0,
    resume: bool = False,
    csv: Path | None = None,
    num_workers: int = 0,
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
    fast_dev_run: bool = False,
) -> None:
    """Train a surrogate on a sweep; writes OUT.safetensors and OUT.json.

    The GENIEx network learns the transfer function of one crossbar; while it trains, OUT.training holds the best and
    the last finished epoch: a kill loses none. The physics surrogates know it without training: what they take from
    the data is the error bound of their reads, fitted to half of the tiles and measured on the others.

    Args:
        data: the HDF5 file that geniex sweep made; for the physics family also the index or folder of a set.
        family: the GENIEx network, or a member of the physics family, to which only data and out apply.
        out: the checkpoint's path, without suffix.
        epochs: passes over the training tiles; the best one on the validation tiles is kept.
        hidden: ReLU units of the hidden layer.
        batch_tiles: tiles a step, each with all its vectors.
        lr: highest learning rate.
        weight_decay: decoupled weight decay.
        patience: epochs without a lower validation error after which it stops; default: none, all epochs.
        half: round the weights to float16, half the file, where this costs less than 1 % of the held-out error.
        seed: seed of the split by tile, the initial weights and the shuffling.
        resume: go on where a killed run of the same command stopped; start where there is none.
        csv: file of every epoch's training loss, validation error and learning rate.
        num_workers: processes that read the data; 0 reads in this one, which is fastest where it fits in memory.
        accelerator: Lightning's: auto, cpu, gpu, ...
        devices: Lightning's: how many, or which as in "0,2", or auto; each takes batch_tiles a step.
        strategy: Lightning's: auto, ddp, ...
        fast_dev_run: one batch only, to see that everything runs; writes nothing.
    """
    given = dict(locals())
    check_positive_int("epochs", epochs)
    check_folder("out", out.parent)
    if family != "geniex-mlp":
        _calibrate(family, data, out, given)
        return
    check_file("csv", csv)
    state = out.with_name(f"{out.name}.training")
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
        from lightning.pytorch.utilities import rank_zero_only  # lightning takes seconds to import

        from geniex.surrogate import TrainConfig, save_surrogate, train_surrogate

        surrogate = train_surrogate(
            data,
            TrainConfig(
                hidden=hidden,
                epochs=epochs,
                batch_tiles=batch_tiles,
                lr=lr,
                weight_decay=weight_decay,
                patience=patience,
                half=half,
                seed=seed,
            ),
            state=state,
            resume=resume,
            csv=csv,
            num_workers=num_workers,
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            fast_dev_run=fast_dev_run,
            on_epoch=lambda epoch, figure: bar.update(
                task, completed=epoch, description=f"validation NF-RMSE {figure:.3f} pp"
            ),
        )
    if getattr(rank_zero_only, "rank", 0):  # another process of several: the first one writes
        return
    if fast_dev_run:
        print("everything runs; a fast development run writes nothing")
        return
    path = save_surrogate(surrogate, out)
    shutil.rmtree(state)
    held_out, split = surrogate.info["held_out"], surrogate.info["split"]
    print(
        f"{path}: NF-RMSE {held_out['nf_rmse_pp']:.3f} pp on {split['test']} held-out tiles"
        f" (ideal product {held_out['ideal_nf_rmse_pp']:.3f} pp)"
    )


def _calibrate(family: str, data: Path, out: Path, given: Mapping[str, Any]) -> None:
    """Write the member of the physics family with its error bound."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    for name, value in given.items():
        if name not in ("data", "family", "out") and value != defaults[name]:
            raise InputError(name, value, f"it is an option of the GENIEx network; {family} has nothing to train")
    from geniex.surrogate import calibrated_on_sweep, physics_member, save_surrogate
    from geniex.sweep import open_sweep

    with Console(stderr=True).status("") as status:
        surrogate = calibrated_on_sweep(physics_member(family), open_sweep(data), status.update)
    path, found = save_surrogate(surrogate, out), surrogate.info["calibration"]
    held_out = found["held_out"]
    print(
        f"{path}: error bound fitted to half of {found['tiles']} tiles; on the others it holds for"
        f" {held_out['coverage']:.1%} of the columns, NF-RMSE {held_out['nf_rmse_pp']:.3g} pp"
    )
