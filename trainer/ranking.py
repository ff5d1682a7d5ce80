"""Ranking: exact ranks and top lists over the whole catalogue, ties included.

Scores have one column per `item_index`; column 0 is padding and never ranked. An item that
scores -inf is out of the ranking: it counts for no other item's rank and is never found.

    B users, V items (columns 0..V), R most relevant items of one user, N relevant pairs
"""

from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from schemas.contract import PADDING_INDEX

SCORES_AT_ONCE = 2**26
"""Of a batch of users; rankings hold a few arrays of that many floats, 256 MiB each, and
baselines twice that: their scores are float64."""

MOST_COUNTED = 64
"""Relevant items of a user up to which comparing all scores with each is quicker than a search."""


def users_at_once(batch_size: int, num_items: int) -> int:
    """B: the batch size, or what keeps a large catalogue's scores within `SCORES_AT_ONCE`."""
    return max(1, min(batch_size, SCORES_AT_ONCE // (num_items + 1)))


def exclude(scores_BV: Tensor, excluded_BV: sparse.csr_matrix | None = None) -> Tensor:
    """A copy of the scores with padding and every stored entry of `excluded_BV` at -inf."""
    scores_BV = scores_BV.clone()
    scores_BV[:, PADDING_INDEX] = -torch.inf
    if excluded_BV is not None:
        rows = torch.from_numpy(rows_of(excluded_BV))
        scores_BV[rows, torch.from_numpy(excluded_BV.indices.astype(np.int64))] = -torch.inf
    return scores_BV


def ranks(scores_BV: Tensor, relevant_BV: sparse.csr_matrix) -> np.ndarray:
    """Ranks of relevant items: the number of items that score higher, plus half the ties.

    Scores are compared with their user's few relevant ones and counted; the matrix itself is
    never sorted: O(B V min(R, log R)).

    Args:
        scores_BV: Scores, excluded items at -inf.
        relevant_BV: Its stored entries are the items to rank.

    Returns:
        [N] float64, from 0, in the order of `relevant_BV.indices`; inf for an item at -inf.
    """
    of_pairs_N = scores_BV[
        torch.from_numpy(rows_of(relevant_BV)),
        torch.from_numpy(relevant_BV.indices.astype(np.int64)),
    ].numpy()
    scores, ends = scores_BV.numpy(), relevant_BV.indptr
    ranks_N = np.full(len(of_pairs_N), np.inf)
    for user, (start, end) in enumerate(pairwise(ends)):
        values = of_pairs_N[start:end]
        count = _counted if len(values) <= MOST_COUNTED else _located
        higher, not_lower = count(scores[user], values)
        ranks_N[start:end] = np.where(np.isfinite(values), (higher + not_lower - 1) / 2, np.inf)
    return ranks_N


def _counted(scores_V: np.ndarray, values_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many scores are >, and ≥, each value [R]: by one pass over the scores each."""
    higher = [np.count_nonzero(scores_V > value) for value in values_R]
    not_lower = [np.count_nonzero(scores_V >= value) for value in values_R]
    return np.array(higher), np.array(not_lower)


def _located(scores_V: np.ndarray, values_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_counted`, for many values: every score is located among them, and counted there."""
    values, places = np.unique(values_R, return_inverse=True)

    def beyond(side: Literal["left", "right"]) -> np.ndarray:
        passed = np.bincount(np.searchsorted(values, scores_V, side), minlength=len(values) + 1)
        return passed[::-1].cumsum()[::-1][1:][places]

    return beyond("left"), beyond("right")


def top_k(scores_BV: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k items of each user; ties go to the smaller item index.

    Args:
        scores_BV: Scores, excluded items at -inf.
        k: Items per user.

    Returns:
        Item indices [B, k], best first, `PADDING_INDEX` where fewer than k items are left, and
        their scores [B, k], -inf there.
    """
    num_users, num_columns = scores_BV.shape
    least_B = scores_BV.topk(min(k, num_columns), dim=1).values[:, -1]
    is_candidate_BV = (scores_BV >= least_B[:, None]) & (scores_BV > -torch.inf)
    rows, columns = (a.numpy() for a in is_candidate_BV.nonzero(as_tuple=True))
    values = scores_BV[is_candidate_BV].numpy()
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    is_kept = places < k
    items = np.full((num_users, k), PADDING_INDEX, dtype=np.int64)
    scores = np.full((num_users, k), -np.inf, dtype=values.dtype)
    items[rows[is_kept], places[is_kept]] = columns[is_kept]
    scores[rows[is_kept], places[is_kept]] = values[is_kept]
    return items, scores


def rows_of(matrix: sparse.csr_matrix) -> np.ndarray:
    """The row of every stored entry, in the order of `matrix.indices`. [N] int64."""
    return np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
