"""Drift: how far the items of one day are from those of other days."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.partitions import Partition

Counts = tuple[np.ndarray, np.ndarray]
"""One day: numbers of its items, each once, and how often each occurs."""


def drift_of(days: Sequence[Partition]) -> tuple[float | None, list[float]]:
    """How far the last day is from all before it, and each of those from the others of them.

    Few actions on many items are far from any distribution by chance alone. That the earlier
    days are measured in the same way tells how far is usual.

    Args:
        days: Interactions, one partition a day, oldest first.

    Returns:
        Jensen-Shannon divergences in [0, 1]: of the last day, None where it is alone, and of
        each earlier day, none where there are fewer than two.
    """
    *earlier, last = counts = item_counts(days)
    num_items = 1 + max(int(numbers.max()) for numbers, _ in counts)
    pool = np.zeros(num_items)
    for numbers, amounts in earlier:
        pool[numbers] += amounts

    def distance(day: Counts, others: np.ndarray) -> float:
        own = np.zeros(num_items)
        own[day[0]] = day[1]
        return jensen_shannon(own, others)

    def without(day: Counts) -> np.ndarray:
        rest = pool.copy()
        rest[day[0]] -= day[1]
        return rest

    comparable = earlier if len(earlier) > 1 else []
    return (
        distance(last, pool) if earlier else None,
        [distance(day, without(day)) for day in comparable],
    )


def item_counts(days: Sequence[Partition]) -> list[Counts]:
    """The items of each day, numbered alike in all of them, and their counts."""
    counted = [pc.value_counts(day.read(["item_id"])["item_id"]) for day in days]
    names = pa.chunked_array([one.field("values") for one in counted]).combine_chunks()
    ends = np.cumsum([len(one) for one in counted])[:-1]
    numbers = np.split(names.dictionary_encode().indices.to_numpy(), ends)
    amounts = [one.field("counts").to_numpy() for one in counted]
    return list(zip(numbers, amounts, strict=True))


def jensen_shannon(left: np.ndarray, right: np.ndarray) -> float:
    """Jensen-Shannon divergence, base 2, of two vectors of counts over the same items: 0 to 1.

    Lin, "Divergence Measures Based on the Shannon Entropy", 1991.
    """
    p, q = left / left.sum(), right / right.sum()

    def entropy(shares: np.ndarray) -> float:
        positive = shares[shares > 0]
        return float(-(positive * np.log2(positive)).sum())

    divergence = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    return min(1.0, max(0.0, divergence))
