"""The work of a training run after every epoch (log, checkpoints, early stopping), and resuming a run."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from geniex.errors import CheckpointError, InputError
from geniex.files import write_atomically

FIGURE = "val_nf_rmse_pp"
"""Name of the validation NF-RMSE in logs and checkpoints."""
RUN = "geniex_run"
"""Key under which a checkpoint holds the run's settings and the data's digest."""
_COLUMNS = ("epoch", "train_loss", FIGURE, "lr")

OnEpoch = Callable[[int, float], None]
"""Function called after every epoch with its number, from 1, and the validation NF-RMSE in percent points."""


class EpochLog(lightning.Callback):
    """A log of every epoch's figures, also as a CSV file where ``path`` is given.

    The checkpoints hold the log, so that it is complete after a resumption. Each of its ``rows`` is (epoch from 1,
    mean squared error of the scaled ratio in training, validation NF-RMSE in pp, learning rate after the epoch).
    """

    def __init__(self, path: Path | None = None, on_epoch: OnEpoch | None = None) -> None:
        self.rows: list[tuple[int, float, float, float]] = []
        self._path, self._on_epoch = path, on_epoch

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the epoch, which has been validated by now."""
        figures = trainer.callback_metrics
        epoch, figure = trainer.current_epoch + 1, float(figures[FIGURE])
        self.rows.append((epoch, float(figures["train_loss"]), figure, trainer.optimizers[0].param_groups[0]["lr"]))
        if not trainer.is_global_zero:
            return
        if self._path is not None:
            text = io.StringIO(newline="")
            csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *self.rows])
            write_atomically(self._path, text.getvalue().encode())
        if self._on_epoch is not None:
            self._on_epoch(epoch, figure)

    def state_dict(self) -> dict[str, Any]:
        """The log's rows, for a checkpoint."""
        return {"rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the log from a checkpoint."""
        self.rows = [tuple(row) for row in state_dict["rows"]]


def best_checkpoint(folder: Path) -> ModelCheckpoint:
    """The callback that keeps the epoch with the lowest validation error in ``folder``/best.ckpt."""
    return ModelCheckpoint(
        folder, "best", monitor=FIGURE, save_on_train_epoch_end=True, enable_version_counter=False
    )  # fmt: skip


def last_checkpoint(folder: Path) -> ModelCheckpoint:
    """The callback that keeps the last finished epoch in ``folder``/last.ckpt; list it after ``best_checkpoint``'s."""
    return ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)


def early_stopping(patience: int) -> EarlyStopping:
    """The callback that ends the training after ``patience`` epochs without a lower validation error."""
    return EarlyStopping(FIGURE, patience=patience, check_on_train_epoch_end=True)


def checkpoint_to_resume(folder: Path, resume: bool, run: dict[str, Any]) -> Path | None:
    """The checkpoint in ``folder`` that ``run`` continues from; None where there is none.

    Raises:
        InputError: there is a checkpoint, but ``resume`` is false.
        CheckpointError: the checkpoint is damaged, or belongs to a run with other settings or data.
    """
    path = folder / "last.ckpt"
    if not path.is_file():
        return None
    if not resume:
        raise InputError("resume", resume, f"{folder} holds an unfinished training: resume it, or delete the folder")
    found = read_checkpoint(path).get(RUN)
    if found != run:
        where = "settings"
        if isinstance(found, dict):
            where = ", ".join(sorted(name for name in found.keys() | run.keys() if found.get(name) != run.get(name)))
        raise CheckpointError(f"{path} belongs to another training, with other {where}: delete {folder} to start over")
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint's content on the CPU: tensors and plain values only, so that no code in it is executed."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is damaged or foreign ({reason}): delete {path.parent} to start over") from None
