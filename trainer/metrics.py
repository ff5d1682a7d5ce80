"""Metrics: how well a ranking of the whole catalogue finds what users did next.

Per user: recall, NDCG and MRR at 5, 10 and 20, from exact ranks with half-counted ties. For
the catalogue: coverage, popularity bias, and the calibration of the model's confidence.

    B users, V items (columns 0..V, column 0 is padding), K recommended items per user
"""

import numpy as np
from scipy import sparse
from torch import Tensor

from schemas.contract import PADDING_INDEX
from schemas.errors import DataError
from trainer.ranking import exclude, ranks, rows_of

CUTOFFS = (5, 10, 20)
"""The k of every metric at k."""

CALIBRATION_BINS = 10


def user_metrics(
    scores_BV: Tensor,
    relevant_BV: sparse.csr_matrix,
    excluded_BV: sparse.csr_matrix | None = None,
) -> dict[str, np.ndarray]:
    """Per-user metrics of a ranking of all items that are not excluded.

    Args:
        scores_BV: Finite scores; column 0 is ignored.
        relevant_BV: Its stored entries are what should be found, at least one per user.
        excluded_BV: Its stored entries are left out of the ranking (such as items seen before).

    Returns:
        Arrays [B] float64 in [0, 1] by name, such as `ndcg@10`; see `metrics_of_ranks`.

    Raises:
        DataError: A user has nothing to find.
    """
    of_pairs = ranks(exclude(scores_BV, excluded_BV), relevant_BV)
    return metrics_of_ranks(of_pairs, relevant_BV)


def metrics_of_ranks(ranks_N: np.ndarray, relevant_BV: sparse.csr_matrix) -> dict[str, np.ndarray]:
    """Per-user metrics from the ranks of relevant items.

    recall@k is hits / min(k, relevant); ndcg@k is Σ 1/log2(rank + 2) over hits, divided by the
    same sum of an ideal ranking (Järvelin & Kekäläinen 2002, binary gain); mrr@k is 1/(rank + 1)
    of the best hit. A hit has rank < k.

    Args:
        ranks_N: From 0, in the order of `relevant_BV.indices`, as `ranking.ranks` gives them.
        relevant_BV: Users by items; its stored entries are the relevant items.

    Raises:
        DataError: A user has nothing to find.
    """
    num_users, num_relevant = relevant_BV.shape[0], np.diff(relevant_BV.indptr)
    if (num_relevant == 0).any():
        raise DataError(
            f"nothing to find for user {int(np.argmin(num_relevant))} of {num_users}",
            "at least one relevant item per scored user",
            "the caller, which chooses the users to score",
        )
    rows = rows_of(relevant_BV)
    gains = 1 / np.log2(ranks_N + 2)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(max(CUTOFFS)) + 2))])
    best = np.minimum.reduceat(ranks_N, relevant_BV.indptr[:-1]) if num_users else ranks_N
    metrics = {}
    for k in CUTOFFS:
        is_hit, can_hit = ranks_N < k, np.minimum(k, num_relevant)
        metrics[f"recall@{k}"] = np.bincount(rows, is_hit, num_users) / can_hit
        metrics[f"ndcg@{k}"] = np.bincount(rows, gains * is_hit, num_users) / ideal[can_hit]
        metrics[f"mrr@{k}"] = np.where(best < k, 1 / (best + 1), 0.0)
    return metrics


def coverage(items_BK: np.ndarray, num_items: int) -> float:
    """Share of the catalogue that is recommended to anyone."""
    return len(np.setdiff1d(items_BK, [PADDING_INDEX])) / num_items


def popularity_bias(items_BK: np.ndarray, popularity_V: np.ndarray) -> float:
    """Mean popularity percentile of what is recommended.

    An item's percentile is the share of the catalogue that is less popular, plus half of what
    is as popular: recommending at random gives 0.5, only the most popular items nearly 1.

    Args:
        items_BK: Item indices, `PADDING_INDEX` where a list is short.
        popularity_V: Users per item, by `item_index` (entry 0 is padding).
    """
    popularity = popularity_V[PADDING_INDEX + 1 :]
    ascending = np.sort(popularity)
    fewer = np.searchsorted(ascending, popularity, "left")
    not_more = np.searchsorted(ascending, popularity, "right")
    percentile = np.concatenate([[0.0], (fewer + not_more) / (2 * len(popularity))])
    recommended = items_BK[items_BK != PADDING_INDEX]
    return float(percentile[recommended].mean()) if len(recommended) else 0.0


def calibration_error(
    confidences_B: np.ndarray, is_right_B: np.ndarray, num_bins: int = CALIBRATION_BINS
) -> float:
    """Expected calibration error: how far confidence is from being right as often as it says.

    Predictions are sorted by confidence into bins of equal size (confidences in a catalogue of
    thousands are small: bins of equal width would all but one be empty); the error is the mean
    of |share that is right - mean confidence| over bins, weighted by size (Guo et al. 2017,
    eq. 3, with the equal-mass bins of Nguyen & O'Connor 2015).

    Args:
        confidences_B: Probability a model gives its first item of being the user's next.
        is_right_B: Whether it was.
        num_bins: Bins; fewer where there are fewer users.
    """
    order = np.argsort(confidences_B, kind="stable")
    gaps = (is_right_B.astype(float) - confidences_B)[order]
    bins = np.array_split(gaps, min(num_bins, len(gaps)))
    return float(sum(abs(b.sum()) for b in bins) / len(gaps))
