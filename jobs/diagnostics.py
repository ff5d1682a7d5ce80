"""Diagnostics: what makes soft targets worth trusting, counted while they are written.

How concentrated rows are, how much of the catalogue they reach, and whether what users did in the
validation days is among the entries, beside as many of the most popular items. The holdout is
never looked at.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from jobs.shared_rows import Rows

HITS = ("relevant", "hits", "popular_hits", "new_relevant", "new_hits", "new_popular_hits")
"""Validation items, those among a row's entries, those among as many popular items; then the
same of items that are new to the user."""


@dataclass(frozen=True)
class Shape:
    """Sums over some rows.

    `reached` has a bit per item, [V + 1] packed: whether any row leads there from elsewhere. All
    tasks send theirs to the driver.
    """

    rows: int
    dropped_mass: float
    seed_mass: float
    entropy: float
    reached: NDArray[np.uint8]


def shape(rows: Rows, seeds: NDArray[np.int32], seed_ends: NDArray[np.int64], width: int) -> Shape:
    """What some rows look like.

    Args:
        rows: N rows of masses.
        seeds: The items each row started from, row after row.
        seed_ends: N + 1 long, from 0.
        width: V + 1.
    """
    reached = np.zeros(width, np.bool_)
    seed_mass = _seed_mass(*rows, seeds, seed_ends, reached)
    masses = rows[2]
    entropy = -(masses * np.log(masses, where=masses > 0, out=np.zeros_like(masses))).sum()
    num_rows = len(rows[0]) - 1
    return Shape(num_rows, num_rows - masses.sum(), seed_mass, float(entropy), np.packbits(reached))


def hits(
    rows: Rows,
    row_of_user: NDArray[np.int64],
    histories: tuple[NDArray[np.int64], NDArray[np.int32]],
    validation: tuple[NDArray[np.int64], NDArray[np.int32]],
    popularity_rank: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How often users' validation items are among the entries of their rows.

    Args:
        rows: Rows of soft targets.
        row_of_user: Which of them is user u's.
        histories: Training items of users, as ends and items.
        validation: Validation items of users, likewise; repeated ones count once.
        popularity_rank: Of every item, [V + 1], 0 the most popular. A row of n entries is compared
            with the n most popular items.

    Returns:
        Sums over users, as `HITS` names them.
    """
    counts = np.zeros(len(HITS), np.int64)
    _hits(rows[0], rows[1], row_of_user, *histories, *validation, popularity_rank, counts)
    return counts


def popularity_ranks(support: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank of every item by training support, [V + 1]; of equal ones the smaller index first."""
    ranks = np.empty(len(support), np.int64)
    ranks[np.argsort(-support[1:], kind="stable") + 1] = np.arange(len(support) - 1)
    ranks[0] = len(support)
    return ranks


def summary(
    shapes: Iterable[Shape], counts: Iterable[NDArray[np.int64]], num_items: int
) -> dict[str, Any]:
    """The manifest's notes on one kind of seed: means over rows, and shares of validation items.

    Where there is no validation item, there is no share.
    """
    shapes = list(shapes)
    rows = sum(s.rows for s in shapes)

    def mean(name: str) -> float:
        return rounded(sum(getattr(s, name) for s in shapes) / max(rows, 1))

    reached = np.unpackbits(np.bitwise_or.reduce([s.reached for s in shapes]))
    totals = dict(zip(HITS, np.sum([*counts], axis=0).tolist(), strict=True))
    return {
        "rows": rows,
        "mean_dropped_mass": mean("dropped_mass"),
        "mean_seed_mass": mean("seed_mass"),
        "mean_entropy": mean("entropy"),
        "coverage": rounded(int(reached.sum()) / num_items),
        "validation": _shares(totals, ""),
        "validation_new_to_user": _shares(totals, "new_"),
    }


def rounded(value: float) -> float:
    """Six significant digits: what a manifest says of a mean."""
    return float(f"{value:.6g}")


def _shares(totals: Mapping[str, int], prefix: str) -> dict[str, float]:
    relevant = totals[f"{prefix}relevant"]
    if not relevant:
        return {"items": 0}
    names = {"hit_rate": "hits", "popular_hit_rate": "popular_hits"}
    shares = {n: rounded(totals[f"{prefix}{c}"] / relevant) for n, c in names.items()}
    return {"items": relevant, **shares}


@njit(cache=True)
def _seed_mass(ends, columns, masses, seeds, seed_ends, reached):  # type: ignore[no-untyped-def]
    owner, total = np.full(len(reached), -1), 0.0
    for row in range(len(ends) - 1):
        for at in range(seed_ends[row], seed_ends[row + 1]):
            owner[seeds[at]] = row
        for at in range(ends[row], ends[row + 1]):
            if owner[columns[at]] == row:
                total += masses[at]
            else:
                reached[columns[at]] = True
    return total


@njit(cache=True)
def _hits(  # type: ignore[no-untyped-def]
    ends, columns, row_of_user, history_ends, history, validation_ends, validation, ranks, counts
):
    listed, known = np.full(len(ranks), -1), np.full(len(ranks), -1)
    counted = np.full(len(ranks), -1)
    for user in range(len(row_of_user)):
        row = row_of_user[user]
        num_entries = ends[row + 1] - ends[row]
        for at in range(ends[row], ends[row + 1]):
            listed[columns[at]] = user
        for at in range(history_ends[user], history_ends[user + 1]):
            known[history[at]] = user
        for at in range(validation_ends[user], validation_ends[user + 1]):
            item = validation[at]
            if counted[item] == user:
                continue
            counted[item] = user
            is_hit, is_popular = listed[item] == user, ranks[item] < num_entries
            counts[0] += 1
            counts[1] += is_hit
            counts[2] += is_popular
            if known[item] != user:
                counts[3] += 1
                counts[4] += is_hit
                counts[5] += is_popular
