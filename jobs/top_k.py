"""Top k: the strongest entries of a row, ties to the smaller column.

The one selection that item graph and propagation share. It never orders a whole row: a heap of
the k strongest entries so far turns most of a long row away with one comparison.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True)
def _is_weaker(values, columns, one, other):  # type: ignore[no-untyped-def]
    if values[one] != values[other]:
        return values[one] < values[other]
    return columns[one] > columns[other]


@njit(cache=True)
def _sink(heap, size, at, values, columns):  # type: ignore[no-untyped-def]
    """Lets the entry at a place of the heap sink until nothing weaker is below it."""
    entry = heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _is_weaker(values, columns, heap[child + 1], heap[child]):
            child += 1
        if not _is_weaker(values, columns, heap[child], entry):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = entry


@njit(cache=True)
def choose_top_k(values, columns, start, stop, k, heap):  # type: ignore[no-untyped-def]
    """Puts into `heap` the places in [start, stop) of the k strongest positive entries.

    Args:
        values: Entries of one row, any number type.
        columns: Their columns, each once, in any order.
        start: First place of the row.
        stop: End of the row.
        k: Entries to choose, ≥ 1; of equal ones those with the smaller column.
        heap: int64 [≥ k]; its first places are overwritten, in no order.

    Returns:
        How many were chosen.
    """
    size = 0
    for entry in range(start, stop):
        if not values[entry] > 0:
            continue
        if size < k:
            heap[size] = entry
            size += 1
            if size == k:
                for at in range(k // 2 - 1, -1, -1):
                    _sink(heap, k, at, values, columns)
        elif _is_weaker(values, columns, heap[0], entry):
            heap[0] = entry
            _sink(heap, k, 0, values, columns)
    return size


@njit(cache=True)
def _top_k_of_rows(ends, columns, values, k):  # type: ignore[no-untyped-def]
    kept = np.empty(min(len(columns), k * (len(ends) - 1)), np.int64)
    kept_ends = np.zeros(len(ends), np.int64)
    heap = np.empty(k, np.int64)
    num_kept = 0
    for row in range(len(ends) - 1):
        size = choose_top_k(values, columns, ends[row], ends[row + 1], k, heap)
        chosen = heap[:size]
        kept[num_kept : num_kept + size] = chosen[np.argsort(columns[chosen])]
        num_kept += size
        kept_ends[row + 1] = num_kept
    return kept[:num_kept], kept_ends


def top_k_of_rows(
    ends: NDArray[np.int64], columns: NDArray[np.int32], values: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the k strongest positive entries of every row are, columns ascending.

    Args:
        ends: Row r of R holds the entries [ends[r], ends[r + 1]); R + 1 long.
        columns: Column of every entry, each once a row, in any order.
        values: Value of every entry.
        k: Entries to keep per row, ≥ 1; of equal ones those with the smaller column.

    Returns:
        Places of the kept entries, row after row, and their row ends, R + 1 long.
    """
    kept: tuple[NDArray[np.int64], NDArray[np.int64]] = _top_k_of_rows(ends, columns, values, k)
    return kept
