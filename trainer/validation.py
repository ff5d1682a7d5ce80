"""Validation: NDCG@10 between epochs, measured as evaluation measures the holdout.

B users scored at once, V items (columns 0..V, column 0 is padding)
"""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from schemas.settings import EvaluationSettings
from trainer.backbones import Backbone
from trainer.histories import Histories, whole
from trainer.holdout import Holdout, holdout_of
from trainer.metrics import metrics_of_ranks
from trainer.ranking import exclude, ranks


def validation_of(sequences: pa.Table, num_items: int, *, exclude_seen: bool) -> Holdout:
    """The validation positions in the place of the holdout, which is left out.

    Args:
        sequences: Rows of the sequences table.
        num_items: V of the items table.
        exclude_seen: As in evaluation: items a user already has are neither ranked nor sought.
    """
    everything, num_validation = whole(sequences), sequences["num_validation"].to_numpy()
    num_kept = sequences["num_train"].to_numpy() + num_validation
    kept = Histories(everything.items, everything.starts, everything.starts + num_kept)
    offsets = np.concatenate([[0], np.cumsum(kept.lengths)]).astype(np.int32)
    columns = {
        "item_indices": pa.ListArray.from_arrays(offsets, kept.positions()[1]),
        "num_holdout": num_validation,
    }
    return holdout_of(pa.table(columns), num_items, exclude_seen=exclude_seen)


def ndcg_10(backbone: Backbone, validation: Holdout, settings: EvaluationSettings) -> float:
    """Mean NDCG@10 over users with something to find; whole catalogue, exact ranks."""
    values = []
    for start in range(0, len(validation), settings.batch_size):
        batch = slice(start, start + settings.batch_size)
        users, relevant = validation.users[batch], validation.relevant[batch]
        seen = validation.counts[users] if validation.exclude_seen else None
        scores_BV = exclude(_scores(backbone, validation.histories.take(users)), seen)
        values.append(metrics_of_ranks(ranks(scores_BV, relevant), relevant)["ndcg@10"])
    return float(np.concatenate(values).mean())


@torch.inference_mode()
def _scores(backbone: Backbone, histories: Histories) -> Tensor:
    items_BL, lengths_B = histories.last(backbone.max_length)
    backbone.eval()
    return backbone.score_next(torch.from_numpy(items_BL), torch.from_numpy(lengths_B))
