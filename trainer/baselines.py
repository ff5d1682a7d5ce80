"""Baselines: what a model must beat to be worth its night.

Each is a function of users' action counts before the holdout and scores all items for some of
these users, as a model does.

    U users, B users scored at once, V items (columns 0..V, column 0 is padding)
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

ScoreUsers = Callable[[np.ndarray], Tensor]
"""Scores [B, V + 1] of some users, by their numbers [B]."""
MOST_NEIGHBOURS = 100_000_000
"""Item pairs that item-kNN keeps, 12 bytes each: of 10,000 items all of them."""
MOST_AT_ONCE = 10_000_000
"""Item pairs in memory while the nearest are chosen."""


def popularity_of(counts_UV: sparse.csr_matrix) -> np.ndarray:
    """Distinct users per item. [V + 1] float64."""
    return np.bincount(counts_UV.indices, minlength=counts_UV.shape[1]).astype(float)


def popularity(counts_UV: sparse.csr_matrix) -> ScoreUsers:
    """Everyone gets the same list: items by distinct users."""
    scores_V = torch.from_numpy(popularity_of(counts_UV))

    def score(users: np.ndarray) -> Tensor:
        return scores_V.expand(len(users), -1)

    return score


def item_knn(counts_UV: sparse.csr_matrix) -> ScoreUsers:
    """Items often had by the same users as the user's own: B K.

    B is the binary user-item matrix, K the cosine between its columns without the diagonal
    (Deshpande & Karypis 2004, eq. 2, unweighted). All neighbours count, unless there are so many
    items that not all pairs are kept (`MOST_NEIGHBOURS`): then each item's nearest, as theirs.
    """
    binary_UV = counts_UV.sign()
    norms_V = np.sqrt(np.maximum(popularity_of(counts_UV), 1.0))
    unit_UV = (binary_UV @ sparse.diags(1 / norms_V)).tocsr()
    cosine_VV = _nearest(unit_UV)

    def score(users: np.ndarray) -> Tensor:
        return torch.from_numpy((binary_UV[users] @ cosine_VV).toarray())

    return score


def _nearest(unit_UV: sparse.csr_matrix) -> sparse.csr_matrix:
    """Cosines [V + 1, V + 1] without the diagonal, of each row the largest; a tie by index."""
    num_items, unit_VU = unit_UV.shape[1], unit_UV.T.tocsr()
    num_kept, num_rows = (max(1, n // num_items) for n in (MOST_NEIGHBOURS, MOST_AT_ONCE))
    parts = []
    for start in range(0, num_items, num_rows):
        part = (unit_VU[start : start + num_rows] @ unit_UV).tocsr()
        part.setdiag(0.0, k=start)
        part.eliminate_zeros()
        part.sort_indices()
        for row in np.flatnonzero(np.diff(part.indptr) > num_kept):
            cosines = part.data[part.indptr[row] : part.indptr[row + 1]]
            cosines[np.argsort(-cosines, kind="stable")[num_kept:]] = 0.0
        part.eliminate_zeros()
        parts.append(part)
    return sparse.vstack(parts, format="csr")


def buy_again(counts_UV: sparse.csr_matrix) -> ScoreUsers:
    """The user's own most frequent items; equals, and everything else, by popularity."""
    popularity_V = popularity_of(counts_UV)
    tie_break_V = popularity_V / (2 * max(popularity_V.max(), 1.0))

    def score(users: np.ndarray) -> Tensor:
        return torch.from_numpy(counts_UV[users].toarray() + tie_break_V)

    return score


BASELINES: dict[str, Callable[[sparse.csr_matrix], ScoreUsers]] = {
    "popularity": popularity,
    "item_knn": item_knn,
    "buy_again": buy_again,
}
"""By their name in the scorecards."""
