"""Ranking: exact ranks and top lists over the whole catalogue, ties included.

Scores have one column per `item_index`; column 0 is padding and never ranked. An item that
scores -inf is out of the ranking: it counts for no other item's rank and is never found.

    B users, V items (columns 0..V), R most relevant items of one user, N relevant pairs
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from schemas.contract import PADDING_INDEX


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

    Every score is located among its user's few relevant scores and counted; the matrix itself
    is never sorted: O(B V log R).

    Args:
        scores_BV: Scores, excluded items at -inf.
        relevant_BV: Its stored entries are the items to rank.

    Returns:
        [N] float64, from 0, in the order of `relevant_BV.indices`; inf for an item at -inf.
    """
    rows = torch.from_numpy(rows_of(relevant_BV))
    places = torch.arange(len(rows)) - torch.from_numpy(relevant_BV.indptr.astype(np.int64))[rows]
    num_users, num_relevant = len(scores_BV), int(np.diff(relevant_BV.indptr).max(initial=0))
    of_pairs_N = scores_BV[rows, torch.from_numpy(relevant_BV.indices.astype(np.int64))]
    padded_BR = scores_BV.new_full((num_users, num_relevant), torch.inf)
    padded_BR[rows, places] = of_pairs_N
    sorted_BR, order_BR = padded_BR.sort(dim=1)
    higher_BR = _num_beyond(sorted_BR, scores_BV, right=False)
    not_lower_BR = _num_beyond(sorted_BR, scores_BV, right=True)
    of_sorted_BR = (higher_BR + not_lower_BR - 1) / 2
    of_padded_BR = torch.empty_like(of_sorted_BR).scatter_(1, order_BR, of_sorted_BR)
    found_N = torch.isfinite(of_pairs_N)
    return torch.where(found_N, of_padded_BR[rows, places], torch.inf).numpy()


def _num_beyond(sorted_BR: Tensor, scores_BV: Tensor, *, right: bool) -> Tensor:
    """How many scores of each user are > (right: ≥) each of its sorted values. [B, R] float64."""
    num_users, num_values = sorted_BR.shape
    passed_BV = torch.searchsorted(sorted_BR.contiguous(), scores_BV.contiguous(), right=right)
    passed_BV += (num_values + 1) * torch.arange(num_users)[:, None]
    counts = torch.bincount(passed_BV.ravel(), minlength=num_users * (num_values + 1))
    from_right = counts.view(num_users, num_values + 1).flip(1).cumsum(1).flip(1)
    return from_right[:, 1:].double()


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
