"""Quality training: one model through the trainer's own code, in this process, without MLflow.

It trains and validates on sealed sequences (`benchmarks/quality_roots.py`). The holdout is read
by `user_values` alone.
"""

from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from schemas.command import Night
from schemas.items import ITEMS
from schemas.partitions import get
from schemas.sequences import SEQUENCES
from schemas.settings import Settings
from trainer.backbones import Backbone
from trainer.checkpointing import ResumeState
from trainer.fitting import Fitting, prepare_torch
from trainer.holdout import Holdout, holdout_of, score_holdout
from trainer.preparation import move_to_recent_popularity, prepare
from trainer.scorer import Scorer
from trainer.scorer_files import ITEM_COLUMNS
from trainer.sequences import Sequences
from trainer.training import epoch_line
from trainer.validation import ndcg_10, validation_of

PARTS = {False: "all", True: "new"}
"""What is ranked, by `exclude_seen`."""


@dataclass(frozen=True)
class Trained:
    """A model with its best epoch's weights, and how it came to them."""

    backbone: Backbone
    best_epoch: int
    num_epochs: int
    validation_ndcg_10: float
    seconds: float


def train(root: Path, ds: date, settings: Settings, resume: ResumeState) -> Trained:
    """Trains as the nightly stage does: early stopping, then popularity of the validation days.

    Args:
        root: With items, sealed sequences and, for losses that read them, soft targets.
        ds: The night.
        settings: All of them.
        resume: Where an interrupted run goes on; removed at the end.

    Raises:
        DataError: The loss explodes or is not finite.
    """
    prepare_torch(settings.training)
    night = Night(root, ds, settings, (), "", "", 0.0)
    sequences = Sequences(get(root, SEQUENCES, ds))
    backbone, windows = prepare(night, sequences)
    evaluation = settings.evaluation
    _, rows = sequences.validating(settings.training.validation_users, settings.training.seed)
    validation = validation_of(rows, backbone.num_items, exclude_seen=evaluation.exclude_seen)

    def validate() -> dict[str, float]:
        return {"validation_ndcg_10": ndcg_10(backbone, validation, evaluation)}

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        print(epoch_line(epoch, metrics), flush=True)

    progress = Fitting(
        backbone,
        windows,
        settings.training,
        resume,
        validate,
        on_epoch,
    ).run()
    weights = progress.best_weights
    move_to_recent_popularity(weights, sequences, backbone.num_items, settings.training)
    backbone.load_state_dict(weights)
    resume.remove()
    return Trained(
        backbone.eval(),
        progress.best_epoch,
        len(progress.epochs),
        progress.epochs[progress.best_epoch - 1]["validation_ndcg_10"],
        round(sum(epoch["seconds"] for epoch in progress.epochs), 1),
    )


def user_values(
    trained: Trained, root: Path, ds: date, settings: Settings
) -> dict[str, np.ndarray]:
    """The model's answers to the holdout: per-user metrics.

    Args:
        trained: The model.
        root: With items, and sequences that have their holdout.
        ds: The night.
        settings: The sections training and evaluation.

    Returns:
        Arrays [B] float32 by name, such as `all/ndcg@10`: of all items, or of those new to the
        user. Users are in the order of the sequences.
    """
    sequences, items = get(root, SEQUENCES, ds).read(), get(root, ITEMS, ds).read(ITEM_COLUMNS)
    ids, support = items["item_id"].to_pylist(), items["support"].to_numpy()
    scorer = Scorer(trained.backbone, ids, support, settings.training.is_probabilistic)
    found: dict[str, np.ndarray] = {}
    for exclude_seen, part in PARTS.items():
        holdout = holdout_of(sequences, scorer.num_items, exclude_seen=exclude_seen)
        answer = partial(_answer, scorer, holdout)
        card = score_holdout(holdout, answer, settings.evaluation.batch_size)
        for metric, values in card.user_values.items():
            found[f"{part}/{metric}"] = values.astype(np.float32)
    return found


def _answer(scorer: Scorer, holdout: Holdout, users: np.ndarray) -> Tensor:
    return scorer.score(holdout.histories.take(users))
