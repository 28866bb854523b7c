"""Training of the GENIEx network on a sweep file."""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.utils import parametrize

from geniex.circuit import nf_rmse, shared_matmul
from geniex.config import Config, check_number, check_positive_int, check_seed
from geniex.errors import InputError
from geniex.surrogate.mlp.callbacks import (
    FIGURE,
    RUN,
    EpochLog,
    OnEpoch,
    best_checkpoint,
    checkpoint_to_resume,
    early_stopping,
    last_checkpoint,
    read_checkpoint,
)
from geniex.surrogate.mlp.data import SweepDataModule
from geniex.surrogate.mlp.initialise import finish, start
from geniex.surrogate.mlp.network import GeniexMLP
from geniex.surrogate.mlp.tiles import TileBatch, read_batch, read_blocks
from geniex.sweep import SweepFile

_WARM_UP = 0.1
"""Fraction of the steps over which the learning rate rises."""
_CENTRED_ON = 1024
"""Number of training tiles that the initial weights are centred on."""
_ROUNDING = 0.01
"""Largest relative increase of the held-out NF-RMSE at which weights are rounded to float16."""


@dataclass(frozen=True)
class TrainConfig(Config):
    """Settings of one training run; together with the data they fix its result on a machine."""

    hidden: int = 500
    """ReLU units of the hidden layer."""
    epochs: int = 60
    """Passes over the training tiles; the weights of the best one on the validation tiles are kept."""
    batch_tiles: int = 64
    """Tiles in a training step, each with all its vectors."""
    lr: float = 6e-3
    """Highest learning rate of AdamW; it rises linearly, then falls along a cosine."""
    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW."""
    patience: int | None = None
    """Epochs without a lower validation error after which the training ends; None trains all epochs."""
    half: bool = False
    """Whether to round the trained weights to float16, which halves their file, where the error grows by under 1 %."""
    seed: int = 0
    """Seed of the split, the initial weights and the shuffling."""

    def __post_init__(self) -> None:
        for name in ("hidden", "epochs", "batch_tiles"):
            check_positive_int(name, getattr(self, name))
        if self.patience is not None:
            check_positive_int("patience", self.patience)
        check_seed(self.seed)
        check_number("lr", self.lr, low=0.0, open_low=True)
        check_number("weight_decay", self.weight_decay, low=0.0)


class RatioTraining(lightning.LightningModule):
    """Least-squares training on the scaled ratio f_R'; columns without a ratio do not count.

    ``run`` identifies the training by its settings and data; every checkpoint holds it.
    """

    def __init__(self, surrogate: GeniexMLP, config: TrainConfig, run: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.surrogate, self.config, self.run = surrogate, config, run or {}
        self._squares: list[Tensor] = []

    def forward(self, batch: TileBatch) -> Tensor:
        """f_R' (tiles, vectors, cols); a tile's half of the hidden layer serves all its vectors."""
        tiles = self.surrogate.tile_half(batch.conductances)
        return self.surrogate.scaled_ratio(tiles[:, None], self.surrogate.vector_half(batch.voltages))

    def training_step(self, batch: TileBatch, index: int) -> Tensor:
        with parametrize.cached():
            predicted = self(batch)
        error = torch.where(batch.known, predicted - batch.ratios, 0.0)
        loss = error.square().sum() / batch.known.sum().clamp(min=1)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: TileBatch, index: int) -> None:
        scalers = self.surrogate.scalers
        reference = 1 / scalers.unscale_ratio(batch.ratios[batch.known])
        predicted = 1 / scalers.unscale_ratio(self(batch)[batch.known])
        self._squares.append((predicted - reference).square())  # NF = 1 - 1 / f_R

    def on_validation_epoch_end(self) -> None:
        squares = torch.cat(self._squares)
        self._squares.clear()
        mean, count = squares.mean(), torch.tensor(squares.numel(), device=squares.device)
        if self.trainer.world_size > 1:
            means, counts = (cast(Tensor, self.all_gather(part)) for part in (mean, count))
            mean = (means * counts).sum() / counts.sum()
        self.log(FIGURE, 100 * mean.sqrt())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RUN] = self.run

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.surrogate.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train_surrogate(
    data: str | Path,
    config: TrainConfig | None = None,
    *,
    state: str | Path | None = None,
    resume: bool = False,
    csv: str | Path | None = None,
    num_workers: int = 0,
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
    fast_dev_run: bool = False,
    on_epoch: OnEpoch | None = None,
) -> GeniexMLP:
    """A ``GeniexMLP`` trained on the sweep file ``data``; its ``info`` has its held-out NF-RMSE in percent points.

    A training that was killed at any moment and is called again with ``resume`` continues after the last finished
    epoch; on a CPU it ends with the weights of an uninterrupted run.

    Args:
        data: a sweep's HDF5 file.
        config: the settings; None means ``TrainConfig()``.
        state: folder for the Lightning checkpoints of the best and the last epoch, which stay; None keeps none.
        resume: whether to continue from the last epoch in ``state``; a new training starts where there is none.
        csv: file for every epoch's training loss, validation NF-RMSE and learning rate; None writes none.
        num_workers: loader processes; 0 reads in this process.
        accelerator: Lightning's accelerator, "auto", "cpu", "gpu", ...
        devices: Lightning's devices: a number, a list as in "0,2", or "auto". Each takes ``batch_tiles`` tiles a step.
        strategy: Lightning's strategy, "auto", "ddp", ...
        fast_dev_run: whether to run one training and one validation batch only, as a check; no state is kept.
        on_epoch: function called after every epoch.

    Raises:
        InputError: data, settings or devices are invalid, or ``state`` holds an unfinished training.
        CheckpointError: the training in ``state`` is damaged, or has other settings or data.
    """
    config = config or TrainConfig()
    if resume and state is None:
        raise InputError("resume", resume, "give the folder of the training's state, too")
    module = SweepDataModule(data, config.batch_tiles, config.seed, num_workers)
    sweep = module.sweep
    run = {"data": sweep.digest, **config.to_dict()}
    log = EpochLog(None if csv is None or fast_dev_run else Path(csv), on_epoch)
    with _folder(None if fast_dev_run else state) as folder, _reproducible(config.seed), _quiet():
        going_on = None if fast_dev_run else checkpoint_to_resume(folder, resume, run)
        scalers = module.scalers
        surrogate = GeniexMLP(sweep.crossbar, sweep.window, sweep.v_max, config.hidden, scalers.r_min, scalers.r_max)
        start(surrogate, read_batch(sweep, module.split.train[:_CENTRED_ON], scalers))
        training = RatioTraining(surrogate, config, run)
        stopping = [] if config.patience is None else [early_stopping(config.patience)]
        best = best_checkpoint(folder)
        trainer = _trainer(
            accelerator,
            devices,
            strategy,
            max_epochs=config.epochs,
            callbacks=[log, *stopping, best, last_checkpoint(folder)],
            fast_dev_run=fast_dev_run,
        )
        _fit(trainer, training, module, going_on)
        if best.best_model_path:
            training.load_state_dict(read_checkpoint(Path(best.best_model_path))["state_dict"])
        trainer.strategy.barrier()  # where there are several processes, the first one owns the folder
    finish(surrogate)
    surrogate.cpu().eval().requires_grad_(False)
    held_out = held_out_nf_rmse(surrogate, sweep, module.split.test)
    if not math.isfinite(held_out["nf_rmse_pp"]):
        raise InputError("lr", config.lr, "the training diverged: give a lower learning rate")
    if config.half:
        held_out = _round(surrogate, sweep, module.split.test, held_out)
    surrogate.info = _info(surrogate, module, config, log, held_out)
    return surrogate


def one_cycle(step: int, steps: int) -> float:
    """The factor of the learning rate, which rises linearly over the first tenth and falls along a cosine to 0."""
    warm_up = max(1.0, _WARM_UP * steps)
    return min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0))))


def held_out_nf_rmse(surrogate: GeniexMLP, sweep: SweepFile, tiles: Tensor) -> dict[str, float]:
    """NF-RMSE in percent points of ``surrogate`` and of the ideal product, on some tiles of ``sweep``."""
    parts = []
    with torch.no_grad():
        for g, v, currents in read_blocks(sweep, tiles):
            g = g[:, None]
            parts.append((shared_matmul(v, g), currents, surrogate(v, g)))
    ideal, exact, predicted = (torch.cat(column) for column in zip(*parts, strict=True))
    return {
        "nf_rmse_pp": nf_rmse(ideal, exact, predicted).item(),
        "ideal_nf_rmse_pp": nf_rmse(ideal, exact, ideal).item(),
    }


def _round(surrogate: GeniexMLP, sweep: SweepFile, tiles: Tensor, held_out: dict[str, float]) -> dict[str, float]:
    """Round the weights to float16 unless that costs too much; returns the held-out figures of the final weights."""
    exact = surrogate.state_dict()
    surrogate.load_state_dict({name: weight.half().float() for name, weight in exact.items()}, assign=True)
    rounded = held_out_nf_rmse(surrogate, sweep, tiles)
    if rounded["nf_rmse_pp"] < (1 + _ROUNDING) * held_out["nf_rmse_pp"]:
        return rounded | {"float32_nf_rmse_pp": held_out["nf_rmse_pp"]}
    surrogate.load_state_dict(exact, assign=True)
    return held_out


def _info(
    surrogate: GeniexMLP, module: SweepDataModule, config: TrainConfig, log: EpochLog, held_out: dict[str, float]
) -> dict[str, Any]:
    sweep, split = module.sweep, module.split
    return {
        "data": {
            "file": Path(module.path).name,
            "digest": sweep.digest,
            "tiles": sweep.tiles,
            "vectors": sweep.vectors,
            "config": sweep.config.to_dict(),
        },
        "split": {
            "seed": config.seed,
            "train": split.train.numel(),
            "val": split.val.numel(),
            "test": split.test.numel(),
        },
        "training": config.to_dict(),
        "epochs": len(log.rows),
        "validation_nf_rmse_pp": min(row[2] for row in log.rows),
        "held_out": held_out,
        "valid_for": {
            "voltages_volt": [0.0, surrogate.v_max],
            "conductances_siemens": [surrogate.window.g_off, surrogate.window.g_on],
            "ratios": [surrogate.scalers.r_min, surrogate.scalers.r_max],
        },
    }


def _trainer(accelerator: str, devices: int | str, strategy: str, **settings: Any) -> lightning.Trainer:
    try:
        return lightning.Trainer(
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **settings,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        asked = f"{accelerator!r}, {devices!r}, {strategy!r}"
        raise InputError("accelerator, devices, strategy", asked, f"Lightning refuses them: {error}") from None


def _fit(trainer: lightning.Trainer, training: RatioTraining, module: SweepDataModule, going_on: Path | None) -> None:
    try:
        trainer.fit(training, module, ckpt_path=going_on, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _folder(state: str | Path | None) -> Iterator[Path]:
    """The folder ``state``, created if needed; a temporary folder where ``state`` is None."""
    if state is not None:
        Path(state).mkdir(parents=True, exist_ok=True)
        yield Path(state)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextlib.contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed torch's random state, and restore the caller's state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notices on hardware, tips, and loader workers that this data does not need."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        logger.setLevel(level)
