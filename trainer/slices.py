"""Slices: the same metrics for some of the users, or for some of the items.

A user is new, light or heavy by the number of actions before the holdout (training and
validation: what every model sees). Items are head or tail by popularity among those same actions.
A metric on a slice is named `metric/slice`, such as `ndcg@10/tail_items`.

    U users of the sequences, B scored users, V items (columns 0..V), N relevant pairs
"""

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from schemas.settings import EvaluationSettings
from trainer.metrics import metrics_of_ranks
from trainer.ranking import rows_of


@dataclass(frozen=True)
class Slices:
    """Who and what belongs to which slice, by the slice's name."""

    users: dict[str, np.ndarray] = field(default_factory=dict)
    """[B] bool, of the scored users."""
    items: dict[str, np.ndarray] = field(default_factory=dict)
    """[V + 1] bool, by `item_index`."""


def slices_of(
    counts_UV: sparse.csr_matrix, users: np.ndarray, settings: EvaluationSettings
) -> Slices:
    """The slices of a holdout.

    Args:
        counts_UV: How often each user acted on each item before the holdout.
        users: [B] numbers of the scored users.
        settings: `light_history`, `heavy_history` and `head_share`.
    """
    lengths_B = np.asarray(counts_UV[users].sum(axis=1)).ravel()
    is_new_B = lengths_B < settings.light_history
    is_heavy_B = ~is_new_B & (lengths_B >= settings.heavy_history)
    is_head_V = head_items(np.asarray(counts_UV.sum(axis=0)).ravel(), settings.head_share)
    return Slices(
        {
            "new_users": is_new_B,
            "light_users": ~is_new_B & ~is_heavy_B,
            "heavy_users": is_heavy_B,
        },
        {"head_items": is_head_V, "tail_items": ~is_head_V},
    )


def head_items(actions_V: np.ndarray, share: float) -> np.ndarray:
    """Whether an item is of the smallest set that holds a share of all actions.

    Args:
        actions_V: Actions per item, by `item_index`; ties go to the smaller index.
        share: Above 0 and below 1.

    Returns:
        [V + 1] bool; never an item without actions.
    """
    order = np.argsort(-actions_V, kind="stable")
    before = np.cumsum(actions_V[order]) - actions_V[order]
    is_head_V = np.zeros(len(actions_V), dtype=bool)
    is_head_V[order] = before < share * actions_V.sum()
    return is_head_V


def sliced_metrics(
    ranks_N: np.ndarray, relevant_BV: sparse.csr_matrix, slices: Slices
) -> dict[str, np.ndarray]:
    """Per-user metrics, whole and by slice; a slice that nobody is in has none.

    A slice of items narrows what is sought and not what is ranked: ranks stay those among all
    items, and users with nothing to find in the slice are left out.

    Args:
        ranks_N: From 0, in the order of `relevant_BV.indices`, as `ranking.ranks` gives them.
        relevant_BV: Its stored entries are what should be found, at least one per user.
        slices: Of these users and items.

    Returns:
        Arrays by name: [B] for the metrics of `metrics_of_ranks`, shorter for those on slices.

    Raises:
        DataError: A user has nothing to find.
    """
    whole = metrics_of_ranks(ranks_N, relevant_BV)
    found = dict(whole)
    for name, is_member_B in slices.users.items():
        found |= {f"{metric}/{name}": values[is_member_B] for metric, values in whole.items()}
    for name, is_member_V in slices.items.items():
        part = metrics_of_ranks(*_narrowed(ranks_N, relevant_BV, is_member_V))
        found |= {f"{metric}/{name}": values for metric, values in part.items()}
    return {metric: values for metric, values in found.items() if len(values)}


def _narrowed(
    ranks_N: np.ndarray, relevant_BV: sparse.csr_matrix, is_member_V: np.ndarray
) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Ranks and relevant items of a slice's items only, without users who then have none."""
    is_kept_N = is_member_V[relevant_BV.indices]
    counts = np.bincount(rows_of(relevant_BV)[is_kept_N], minlength=relevant_BV.shape[0])
    counts = counts[counts > 0]
    kept = relevant_BV.indices[is_kept_N]
    entries = (np.ones(len(kept)), kept, np.concatenate([[0], np.cumsum(counts)]))
    narrowed = sparse.csr_matrix(entries, shape=(len(counts), relevant_BV.shape[1]))
    return ranks_N[is_kept_N], narrowed
