"""Training of the GENIEx network on a sweep file."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from geniex.circuit import nf_rmse, shared_matmul
from geniex.config import Config, check_number, check_positive_int, check_seed
from geniex.surrogate.datamodule import SweepDataModule
from geniex.surrogate.mlp import GeniexMLP
from geniex.surrogate.start import finish, start
from geniex.surrogate.tiles import TileBatch, read_batch, read_blocks
from geniex.sweep import SweepFile

_WARM_UP = 0.1
"""Fraction of the steps over which the learning rate rises."""
_CENTRED_ON = 1024
"""Training tiles that the initial weights are centred on."""


@dataclass(frozen=True)
class TrainConfig(Config):
    """Settings of one training run; together with the data they fix its result on a machine."""

    hidden: int = 500
    """ReLU units of the hidden layer."""
    epochs: int = 60
    """Passes over the training tiles; the weights of the best one on the validation tiles are kept."""
    batch_tiles: int = 64
    """Tiles a step, each with all its vectors."""
    lr: float = 6e-3
    """Highest learning rate of AdamW; it rises linearly, then falls along a cosine."""
    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW."""
    seed: int = 0
    """Seed of the split, the initial weights and the shuffling."""

    def __post_init__(self) -> None:
        for name in ("hidden", "epochs", "batch_tiles"):
            check_positive_int(name, getattr(self, name))
        check_seed(self.seed)
        check_number("lr", self.lr, low=0.0, open_low=True)
        check_number("weight_decay", self.weight_decay, low=0.0)


class RatioTraining(lightning.LightningModule):
    """Least squares on the scaled ratio f_R'; columns without one do not count.

    ``best`` holds the weights of the epoch with the lowest validation NF-RMSE, ``history`` every epoch's.
    """

    def __init__(self, surrogate: GeniexMLP, config: TrainConfig, on_epoch: OnEpoch | None = None) -> None:
        super().__init__()
        self.surrogate, self.config, self.on_epoch = surrogate, config, on_epoch
        self.best: dict[str, Tensor] = {}
        self.history: list[float] = []
        self._squares: list[Tensor] = []

    def forward(self, batch: TileBatch) -> Tensor:
        """f_R' (tiles, vectors, cols); a tile's half of the hidden layer serves all its vectors."""
        tiles = self.surrogate.tile_half(batch.conductances)
        return self.surrogate.scaled_ratio(tiles[:, None], self.surrogate.vector_half(batch.voltages))

    def training_step(self, batch: TileBatch, index: int) -> Tensor:
        with parametrize.cached():
            predicted = self(batch)
        error = torch.where(batch.known, predicted - batch.ratios, 0.0)
        return error.square().sum() / batch.known.sum().clamp(min=1)

    def validation_step(self, batch: TileBatch, index: int) -> None:
        scalers = self.surrogate.scalers
        reference = 1 / scalers.unscaled_ratio(batch.ratios[batch.known])
        predicted = 1 / scalers.unscaled_ratio(self(batch)[batch.known])
        self._squares.append((predicted - reference).square())  # NF = 1 - 1 / f_R

    def on_validation_epoch_end(self) -> None:
        figure = 100 * torch.cat(self._squares).mean().sqrt().item()
        self._squares.clear()
        self.log("val_nf_rmse_pp", figure)
        if not self.best or figure < min(self.history):
            self.best = {k: v.detach().clone() for k, v in self.surrogate.state_dict().items()}
        self.history.append(figure)
        if self.on_epoch is not None:
            self.on_epoch(len(self.history), figure)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.surrogate.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


OnEpoch = Callable[[int, float], None]
"""Called after every epoch with its number, from 1, and the validation NF-RMSE in percent points."""


def train_surrogate(
    data: str | Path,
    config: TrainConfig | None = None,
    *,
    num_workers: int = 0,
    fast_dev_run: bool = False,
    log_dir: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> GeniexMLP:
    """A ``GeniexMLP`` trained on the sweep file ``data``; its ``info`` has its held-out NF-RMSE in percent points.

    Args:
        data: a sweep's HDF5 file.
        config: the settings; None means ``TrainConfig()``.
        num_workers: loader processes; 0 reads in this one.
        fast_dev_run: one training and one validation batch only, to see that everything runs.
        log_dir: where a CSV of the validation NF-RMSE goes; None writes none.
        on_epoch: called after every epoch.
    """
    config = config or TrainConfig()
    module = SweepDataModule(data, config.batch_tiles, config.seed, num_workers)
    sweep = module.sweep
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(config.seed)
        scalers = module.scalers
        surrogate = GeniexMLP(sweep.crossbar, sweep.window, sweep.v_max, config.hidden, scalers.r_min, scalers.r_max)
        start(surrogate, read_batch(sweep, module.split.train[:_CENTRED_ON], scalers))
        training = RatioTraining(surrogate, config, on_epoch)
        trainer = lightning.Trainer(
            max_epochs=config.epochs,
            devices=1,
            fast_dev_run=fast_dev_run,
            logger=_logger(log_dir),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(training, module)
    surrogate.load_state_dict(training.best)
    finish(surrogate)
    surrogate.cpu().eval().requires_grad_(False)
    surrogate.info = _info(surrogate, module, config, training.history)
    return surrogate


def one_cycle(step: int, steps: int) -> float:
    """The learning rate's factor: up linearly over the first tenth, down along a cosine to 0."""
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


def _info(surrogate: GeniexMLP, module: SweepDataModule, config: TrainConfig, history: list[float]) -> dict[str, Any]:
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
        "validation_nf_rmse_pp": min(history),
        "held_out": held_out_nf_rmse(surrogate, sweep, split.test),
        "valid_for": {
            "voltages_volt": [0.0, surrogate.v_max],
            "conductances_siemens": [surrogate.window.g_off, surrogate.window.g_on],
            "ratios": [surrogate.scalers.r_min, surrogate.scalers.r_max],
        },
    }


def _logger(log_dir: str | Path | None) -> Any:
    if log_dir is None:
        return False
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(save_dir=str(log_dir), name="", version="")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its notices: hardware, tips, and advice on loader workers that this data does not need."""
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
