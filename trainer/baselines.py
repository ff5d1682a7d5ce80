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
    """Items often had by the same users as the user's own: B K, all neighbours counted.

    B is the binary user-item matrix, K the cosine between its columns without the diagonal
    (Deshpande & Karypis 2004, eq. 2, unweighted and without their cut to k neighbours).
    """
    binary_UV = counts_UV.sign()
    norms_V = np.sqrt(np.maximum(popularity_of(counts_UV), 1.0))
    unit_UV = (binary_UV @ sparse.diags(1 / norms_V)).tocsr()
    cosine_VV = (unit_UV.T @ unit_UV).tocsr()
    cosine_VV.setdiag(0.0)

    def score(users: np.ndarray) -> Tensor:
        return torch.from_numpy((binary_UV[users] @ cosine_VV).toarray())

    return score


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
