"""Holdout: the frozen test of one night, and one model's answers to it.

U users of the sequences, B users with something to find, V items (columns 0..V)
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from scipy import sparse

from trainer.baselines import ScoreUsers, popularity_of
from trainer.histories import Histories, split
from trainer.metrics import (
    CalibrationBins,
    calibration_bins,
    coverage,
    gini,
    popularity_bias,
    popularity_lift,
)
from trainer.ranking import exclude, ranks, top_k
from trainer.slices import Slices, sliced_metrics

LIST_LENGTH = 10
"""k of the catalogue-wide metrics."""


@dataclass(frozen=True)
class Holdout:
    """Who is asked what: every model ranks for the same users, in the order of `sequences`."""

    exclude_seen: bool
    num_items: int
    histories: Histories
    """Of all U users: train and validation positions, which every model may see."""
    counts: sparse.csr_matrix
    """[U, V + 1]: the same as action counts."""
    users: np.ndarray
    """[B] numbers of the users with something to find."""
    relevant: sparse.csr_matrix
    """[B, V + 1]: distinct items of their holdout; without those seen, where these are excluded."""
    next_items: np.ndarray
    """[B] the first of these."""

    def __len__(self) -> int:
        return len(self.users)


@dataclass
class Card:
    """How one model did: per-user values and catalogue-wide values, by metric.

    Per-user values are [B], or those of a slice's users where the metric names one.
    """

    user_values: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    calibration: CalibrationBins | None = None
    """What the calibration error is made of; None where scores are no probabilities."""


def holdout_of(sequences: pa.Table, num_items: int, *, exclude_seen: bool) -> Holdout:
    """The holdout of a night; empty where no user has anything to find.

    Args:
        sequences: Rows of the sequences table.
        num_items: V of tonight's items table.
        exclude_seen: Discovery: items a user has before the holdout are neither ranked nor sought.
    """
    before, held = split(sequences)
    counts = before.counts(num_items)
    users, items = held.positions()
    if exclude_seen:
        is_new = ~_contains(counts, users, items)
        users, items = users[is_new], items[is_new]
    scored, first, rows = np.unique(users, return_index=True, return_inverse=True)
    shape = (len(scored), num_items + 1)
    relevant = sparse.csr_matrix((np.ones(len(rows)), (rows, items)), shape=shape)
    return Holdout(exclude_seen, num_items, before, counts, scored, relevant, items[first])


def _contains(matrix: sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Whether each (row, column) is a stored entry."""
    width = matrix.shape[1]
    stored = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * width + matrix.indices
    return np.isin(rows * width + columns, stored)


def score_holdout(
    holdout: Holdout,
    score: ScoreUsers,
    batch_size: int,
    slices: Slices | None = None,
    *,
    is_probabilistic: bool = False,
) -> Card:
    """Ranks the whole catalogue for every user of a holdout.

    Args:
        holdout: At least one user.
        score: The model or baseline.
        batch_size: Users scored at once.
        slices: Of these users and items; per-user metrics are measured on each of them too.
        is_probabilistic: Whether softmax of the scores means the probability of the next item;
            then calibration is measured too.

    Returns:
        Recall, NDCG and MRR per user; coverage, Gini index, popularity bias and popularity lift of
        lists of 10; calibration.
    """
    of_pairs, lists, confidences = [], [], []
    for start in range(0, len(holdout), batch_size):
        users = holdout.users[start : start + batch_size]
        relevant = holdout.relevant[start : start + batch_size]
        seen = holdout.counts[users] if holdout.exclude_seen else None
        scores = exclude(score(users), seen)
        of_pairs.append(ranks(scores, relevant))
        lists.append(top_k(scores, LIST_LENGTH)[0])
        if is_probabilistic:
            # Of a user whom nothing is left for it is no number, and nothing is the list's first.
            most = torch.softmax(scores, dim=1).amax(dim=1)
            confidences.append(most.nan_to_num(0.0).numpy())
    user_values = sliced_metrics(np.concatenate(of_pairs), holdout.relevant, slices or Slices())
    values = _list_metrics(holdout, np.concatenate(lists))
    if not is_probabilistic:
        return Card(user_values, values)
    is_right = np.concatenate(lists)[:, 0] == holdout.next_items
    bins = calibration_bins(np.concatenate(confidences), is_right)
    return Card(user_values, values | {"calibration_error": bins.error}, bins)


def _list_metrics(holdout: Holdout, lists: np.ndarray) -> dict[str, float]:
    popularity, histories = popularity_of(holdout.counts), holdout.counts[holdout.users]
    values = {
        "coverage": coverage(lists, holdout.num_items),
        "gini": gini(lists, holdout.num_items),
        "popularity_bias": popularity_bias(lists, popularity),
        "popularity_lift": popularity_lift(lists, histories, popularity),
    }
    return {f"{name}@{LIST_LENGTH}": value for name, value in values.items()}
