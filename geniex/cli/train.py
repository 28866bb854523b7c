"""``geniex train``: a surrogate's checkpoint made from a sweep file."""

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
    """Train a surrogate on a sweep and write OUT.safetensors and OUT.json.

    The GENIEx network learns the transfer function of one crossbar. During training OUT.training holds the best and
    the last finished epoch, so that an interruption loses no finished epoch. The physics surrogates compute the
    transfer function without training. They use the data for the error bound of their reads, which is fitted to half
    of the tiles and measured on the others.

    Args:
        data: HDF5 file made by geniex sweep; for the physics family also the index or folder of a set.
        family: the GENIEx network, or a member of the physics family, for which only data and out apply.
        out: path of the checkpoint, without suffix.
        epochs: passes over the training tiles; the best epoch on the validation tiles is kept.
        hidden: number of ReLU units in the hidden layer.
        batch_tiles: tiles per step, each with all its vectors.
        lr: highest learning rate.
        weight_decay: decoupled weight decay.
        patience: stop after this many epochs without a lower validation error; if not given, all epochs are run.
        half: round the weights to float16, which halves the file, if this costs less than 1 % of the held-out error.
        seed: seed for the split by tile, the initial weights and the shuffling.
        resume: continue an interrupted run of the same command, or start a new one if there is none.
        csv: file for every epoch's training loss, validation error and learning rate.
        num_workers: number of processes that read the data; 0 reads in the main process, which is fastest if the data
            fits in memory.
        accelerator: Lightning's accelerator: auto, cpu, gpu, ...
        devices: Lightning's devices: a number, a list such as "0,2", or auto; each device takes batch_tiles per step.
        strategy: Lightning's strategy: auto, ddp, ...
        fast_dev_run: run one batch only, as a test that everything works, and write nothing.
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
    if getattr(rank_zero_only, "rank", 0):  # in distributed training only the first process writes
        return
    if fast_dev_run:
        print("the fast development run succeeded; it writes nothing")
        return
    path = save_surrogate(surrogate, out)
    shutil.rmtree(state)
    held_out, split = surrogate.info["held_out"], surrogate.info["split"]
    print(
        f"{path}: NF-RMSE {held_out['nf_rmse_pp']:.3f} pp on {split['test']} held-out tiles"
        f" (of the ideal product: {held_out['ideal_nf_rmse_pp']:.3f} pp)"
    )


def _calibrate(family: str, data: Path, out: Path, given: Mapping[str, Any]) -> None:
    """Fit the error bound of a member of the physics family and write its checkpoint."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    for name, value in given.items():
        if name not in ("data", "family", "out") and value != defaults[name]:
            raise InputError(name, value, f"it is an option of the GENIEx network; {family} is not trained")
    from geniex.surrogate import calibrate_on_sweep, physics_member, save_surrogate
    from geniex.sweep import open_sweep

    with Console(stderr=True).status("") as status:
        surrogate = calibrate_on_sweep(physics_member(family), open_sweep(data), status.update)
    path, found = save_surrogate(surrogate, out), surrogate.info["calibration"]
    held_out = found["held_out"]
    print(
        f"{path}: error bound fitted to half of the {found['tiles']} tiles; on the other half it holds for"
        f" {held_out['coverage']:.1%} of the columns, NF-RMSE {held_out['nf_rmse_pp']:.3g} pp"
    )
