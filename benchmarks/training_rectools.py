"""Training with RecTools: the rival's epoch, for the interpreter of the rival's own environment.

    var/bench/rectools/bin/python benchmarks/training_rectools.py DATA SETTINGS

Imports nothing of ours. Prints seconds, mean loss and examples of one epoch.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore
from rectools import Columns  # type: ignore
from rectools.dataset import Dataset  # type: ignore
from rectools.models import SASRecModel  # type: ignore
from rectools.models.nn.item_net import IdEmbeddingsItemNet  # type: ignore


class Clock(Callback):
    """Seconds of an epoch, loading batches included."""

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Starts."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stops."""
        self.seconds = time.monotonic() - self.started


def dataset_of(items: np.ndarray, offsets: np.ndarray) -> Dataset:
    """Actions as RecTools takes them; their order stands in for time."""
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    actions = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1.0})
    actions[Columns.Datetime] = pd.to_datetime(np.arange(len(items)), unit="s")
    return Dataset.construct(actions)


def one_epoch(dataset: Dataset, settings: Mapping[str, Any]) -> dict[str, float]:
    """Trains SASRec with the values of our settings."""
    torch.set_num_threads(settings["num_threads"] or len(os.sched_getaffinity(0)))

    def trainer() -> Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        return Trainer(
            accelerator="cpu",
            devices=1,
            min_epochs=1,
            max_epochs=1,
            enable_checkpointing=False,
            callbacks=[Clock()],
            **quiet,
        )

    model = SASRecModel(
        n_blocks=settings["num_blocks"],
        n_heads=settings["num_heads"],
        n_factors=settings["width"],
        dropout_rate=settings["dropout"],
        session_max_len=settings["max_length"],
        loss="softmax",
        lr=settings["learning_rate"],
        batch_size=settings["batch_size"],
        item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=trainer,
    )
    model.fit(dataset)
    (clock,) = (c for c in model.fit_trainer.callbacks if isinstance(c, Clock))
    kept = model.data_preparator.train_dataset
    return {
        "seconds": clock.seconds,
        "loss": float(model.fit_trainer.callback_metrics["train_loss"]),
        "examples": len(kept.interactions.df) - kept.user_id_map.size,
    }


def main(data: Path, settings: Mapping[str, Any]) -> None:
    """Trains for an epoch and prints what it took as JSON."""
    stored = np.load(data)
    print(json.dumps(one_epoch(dataset_of(stored["items"], stored["offsets"]), settings)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
