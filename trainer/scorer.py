"""Scorer: a trained model with the catalogue it was trained on; all that serving needs.

It lives in a folder of three files, beside a checkpoint or inside a registered model. Nothing
in them is executed when they are read.

    B users, V items of this model's own catalogue (columns 0..V, column 0 is padding)
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from schemas.checkpoints import WEIGHTS_FILE
from schemas.contract import PADDING_INDEX
from schemas.errors import DataError
from schemas.partitions import Partition
from schemas.settings import TrainingSettings
from trainer.backbones import Backbone
from trainer.checkpointing import restore
from trainer.histories import Histories
from trainer.ranking import exclude, top_k
from trainer.scorer_files import ITEM_COLUMNS, ITEMS_FILE, SETTINGS_FILE


@dataclass(frozen=True)
class Scorer:
    """Scores a catalogue for histories under its own item indices."""

    backbone: Backbone
    item_ids: list[str]
    """Raw ids; entry j - 1 is `item_index` j."""
    support: np.ndarray
    """[V] int64, training interactions in the same order."""
    is_probabilistic: bool
    """Whether softmax of its scores is meant as the probability of the next item."""

    @property
    def num_items(self) -> int:
        """V, the catalogue without padding."""
        return len(self.item_ids)

    @cached_property
    def index_of(self) -> dict[str, int]:
        """`item_index` by raw id."""
        return {item_id: index for index, item_id in enumerate(self.item_ids, start=1)}

    def indices_of(self, item_ids: list[str]) -> np.ndarray:
        """`item_index` of raw ids, in the same order; `PADDING_INDEX` for unknown ones."""
        found = [self.index_of.get(item_id, PADDING_INDEX) for item_id in item_ids]
        return np.array(found, dtype=np.int64)

    def renumbering(self, item_ids: list[str]) -> np.ndarray:
        """This model's `item_index` by that of another catalogue; padding to padding.

        Args:
            item_ids: Raw ids of the other catalogue; entry j - 1 is its `item_index` j.
        """
        return np.concatenate([[PADDING_INDEX], self.indices_of(item_ids)])

    @torch.inference_mode()
    def score(self, histories: Histories) -> Tensor:
        """Logits [B, V + 1] of what follows each history; column 0 is -inf.

        An empty history is scored by log(1 + support): popularity stands in for the model.

        Raises:
            DataError: The model gives a score that is not finite.
        """
        items, lengths = histories.last(self.backbone.max_length)
        is_empty = torch.from_numpy(lengths == 0)
        at_least_one = torch.from_numpy(np.maximum(lengths, 1))
        scores_BV = self.backbone.score_next(torch.from_numpy(items), at_least_one)
        popularity_V = torch.from_numpy(np.log1p(self.support)).to(scores_BV.dtype)
        scores_BV[:, 1:] = torch.where(is_empty[:, None], popularity_V, scores_BV[:, 1:])
        if not torch.isfinite(scores_BV[:, 1:]).all():
            raise DataError(
                f"a score that is not finite from a {type(self.backbone).__name__}",
                "finite scores for every item",
                "the checkpoint: look at the training run's loss and gradient norm, then re-train",
            )
        return scores_BV

    def recommend(
        self, histories: Histories, k: int, *, exclude_seen: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k items of each user, at most all; as `ranking.top_k`."""
        seen = histories.counts(self.num_items) if exclude_seen else None
        return top_k(exclude(self.score(histories), seen), min(k, self.num_items))


def from_checkpoint(checkpoint: Partition, items: Partition) -> Scorer:
    """The model of a night.

    Args:
        checkpoint: A partition of the checkpoints table.
        items: The items table it was trained on.

    Raises:
        DataError: These are not the items it was trained on.
    """
    (row,) = checkpoint.read().to_pylist()
    found = items.manifest.content_digest
    if row["items_digest"] != found:
        raise DataError(
            f"a checkpoint trained on items {row['items_digest'][:12]}, and items {found[:12]}",
            "the items table that the checkpoint was trained on",
            f"re-run python -m trainer.training --ds {checkpoint.manifest.ds}",
        )
    settings = TrainingSettings.model_validate_json(row["settings"])
    backbone = restore(settings, row["num_items"], checkpoint.attachment(WEIGHTS_FILE))
    return _scorer(backbone, items.read(ITEM_COLUMNS), settings)


def from_folder(folder: Path) -> Scorer:
    """The model in a folder that `scorer_files.write` filled."""
    items = pq.read_table(folder / ITEMS_FILE)
    settings = TrainingSettings.model_validate_json((folder / SETTINGS_FILE).read_text())
    backbone = restore(settings, items.num_rows, folder / WEIGHTS_FILE)
    return _scorer(backbone, items, settings)


def _scorer(backbone: Backbone, items: pa.Table, settings: TrainingSettings) -> Scorer:
    ids, support = items["item_id"].to_pylist(), items["support"].to_numpy()
    return Scorer(backbone, ids, support, settings.is_probabilistic)
