"""Metrics: how well a ranking of the whole catalogue finds what users did next.

Per user: recall, NDCG and MRR at 5, 10 and 20, from exact ranks with half-counted ties. For
the catalogue: coverage, concentration, popularity bias and lift, and the calibration of the
model's confidence.

    B users, V items (columns 0..V, column 0 is padding), K recommended items per user
"""

from typing import NamedTuple

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


def gini(items_BK: np.ndarray, num_items: int) -> float:
    """Gini index of exposure: how unevenly recommendations fall on the catalogue.

    With x the lists that an item is in, ascending, it is Σ_j (2j - V - 1) x_j / ((V - 1) Σ x),
    j = 1..V: 0 where all items are in as many lists, 1 where one is in all of them and no other
    in any (Shani & Gunawardana 2011, under item space coverage). Where all lists have fewer
    places than the catalogue items, some of it is unavoidable.

    Args:
        items_BK: Item indices, `PADDING_INDEX` where a list is short.
        num_items: V, the whole catalogue.
    """
    exposure = np.bincount(items_BK.ravel(), minlength=num_items + 1)[PADDING_INDEX + 1 :]
    places = 2 * np.arange(1, num_items + 1) - num_items - 1
    evenly = (num_items - 1) * exposure.sum()
    return float((places * np.sort(exposure)).sum() / evenly) if evenly else 0.0


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


def popularity_lift(
    items_BK: np.ndarray, histories_BV: sparse.csr_matrix, popularity_V: np.ndarray
) -> float:
    """How much more popular recommendations are than what the same users chose themselves.

    It is (GAP_r - GAP_p) / GAP_p, where GAP, the group average popularity, is the mean over users
    of the mean popularity of their distinct items, recommended (r) or in their histories (p):
    0 is as popular as they like it, 1 twice as popular (ΔGAP of Abdollahpouri et al. 2019, the
    popularity lift of Abdollahpouri et al. 2020). Empty lists and histories do not count.

    Args:
        items_BK: Item indices, distinct in a list, `PADDING_INDEX` where it is short.
        histories_BV: Its stored entries are the items that these users have.
        popularity_V: Users per item, by `item_index` (entry 0 is padding).
    """
    is_real_BK = items_BK != PADDING_INDEX
    recommended = _group_average(np.where(is_real_BK, popularity_V[items_BK], 0), is_real_BK)
    owned_BV = histories_BV.sign()
    owned = _group_average((owned_BV @ popularity_V)[:, None], owned_BV.sum(axis=1))
    return recommended / owned - 1 if owned else 0.0


def _group_average(popularities: np.ndarray, counts: np.ndarray) -> float:
    """Mean over users of the sum of a row by the sum of its counts, where that is not 0."""
    sums, nums = popularities.sum(axis=1), np.asarray(counts).sum(axis=1)
    return float((sums[nums > 0] / nums[nums > 0]).mean()) if (nums > 0).any() else 0.0


class CalibrationBins(NamedTuple):
    """Predictions in bins of equal size, by ascending confidence; arrays [bins].

    `confidences` is the mean confidence of a bin, `hit_rates` the share that is right, `counts`
    the number of predictions.
    """

    confidences: np.ndarray
    hit_rates: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |hit rate - confidence|, weighted by size."""
        return float(np.average(abs(self.hit_rates - self.confidences), weights=self.counts))


def calibration_bins(
    confidences_B: np.ndarray, is_right_B: np.ndarray, num_bins: int = CALIBRATION_BINS
) -> CalibrationBins:
    """How sure a model is beside how often it is right.

    Bins are of equal size because confidences in a catalogue of thousands are small: bins of
    equal width would all but one be empty (the equal-mass bins of Nguyen & O'Connor 2015).

    Args:
        confidences_B: Probability a model gives its first item of being the user's next.
        is_right_B: Whether it was.
        num_bins: Bins; fewer where there are fewer users.
    """
    order = np.argsort(confidences_B, kind="stable")
    num_bins = min(num_bins, len(order))
    confidences, is_right = (
        np.array_split(values_B[order].astype(float), num_bins)
        for values_B in (confidences_B, is_right_B)
    )
    return CalibrationBins(
        np.array([b.mean() for b in confidences]),
        np.array([b.mean() for b in is_right]),
        np.array([len(b) for b in is_right]),
    )


def calibration_error(
    confidences_B: np.ndarray, is_right_B: np.ndarray, num_bins: int = CALIBRATION_BINS
) -> float:
    """Expected calibration error: how far confidence is from being right as often as it says.

    The mean of |share that is right - mean confidence| over bins, weighted by size (Guo et al.
    2017, eq. 3, with the bins and arguments of `calibration_bins`).
    """
    return calibration_bins(confidences_B, is_right_B, num_bins).error
