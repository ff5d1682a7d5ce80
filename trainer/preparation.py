"""Preparation: what training needs before its first step: a backbone, windows, item biases."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from schemas.command import Night
from schemas.contract import PADDING_INDEX
from schemas.errors import DataError
from schemas.items import ITEMS
from schemas.partitions import get, refuse_other_source
from schemas.settings import TrainingSettings
from schemas.soft_targets import SOFT_TARGETS
from trainer.actions import target_counts
from trainer.backbones import Backbone, build
from trainer.batches import TrainingWindows
from trainer.losses import USE_SOFT_TARGETS
from trainer.sequences import Sequences
from trainer.soft_targets import from_batches, no_soft_targets
from trainer.warm_start import start_from_champion

ROWS_AT_ONCE = 2**15
"""Of soft targets, whose ids are looked up together."""


def prepare(night: Night, sequences: Sequences) -> tuple[Backbone, TrainingWindows]:
    """A backbone that starts from popularity, and the windows to train it on.

    All but its item biases may be the champion's (`training.warm_start`).

    Raises:
        DataError: Nothing to train on, or tables that do not fit together.
    """
    settings = night.settings.training
    catalogue = get(night.root, ITEMS, night.ds)
    refuse_other_source(sequences.partition, catalogue)
    items = catalogue.read(("item_index", "item_id"))
    num_items, facts = items.num_rows, sequences.facts
    if facts.greatest_item > num_items:
        raise DataError(
            f"item_index {facts.greatest_item} in sequences",
            f"at most {num_items}, the size of items",
            "re-run jobs.sequences for this date: it read other items",
        )
    backbone = build(settings, num_items)
    if settings.warm_start:
        ids = items["item_id"].to_pylist()
        print(start_from_champion(backbone, night, ids, facts.trained_until), flush=True)
    # After the champion's weights: its biases hold popularity up to days not trained on tonight,
    # by which `move_to_recent_popularity` would move them once more.
    backbone.start_from(target_counts(sequences.actions, settings, num_items))
    if settings.loss in USE_SOFT_TARGETS:
        published = get(night.root, SOFT_TARGETS, night.ds)
        refuse_other_source(published, catalogue, sequences.partition)
        rows = published.batches(num_rows=ROWS_AT_ONCE)
        ids = sequences.user_ids()
        soft_targets = from_batches(rows, items, ids, settings, night.root)
    else:
        soft_targets = no_soft_targets(num_items)
    return backbone, TrainingWindows(sequences.actions(), soft_targets, settings, night.root)


def move_to_recent_popularity(
    weights: dict[str, Tensor],
    sequences: Sequences,
    num_items: int,
    settings: TrainingSettings,
) -> None:
    """Moves item biases by what popularity has changed since training positions ended.

    Weights that early stopping chose never saw the validation days, and popularity drifts: the
    bias gains the log of the last `popularity_days` days' counts with validation, and loses that
    of the counts it started from. The holdout is not looked at.
    """
    with_validation = partial(sequences.actions, with_validation=True)
    then_V, now_V = (
        target_counts(chunks, settings, num_items)
        for chunks in (sequences.actions, with_validation)
    )
    drift_V = torch.from_numpy(np.log1p(now_V) - np.log1p(then_V))[PADDING_INDEX + 1 :]
    weights["item_bias"] = (weights["item_bias"] + drift_V).to(weights["item_bias"].dtype)
