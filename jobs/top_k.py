"""Top k: the strongest entries of a row, ties to the smaller column.

The one selection that item graph and propagation share. It never orders a whole row: one pass
counts how many entries are how strong, roughly, and so finds out how strong the k-th is; a second
takes all that are clearly stronger, and a heap chooses among those that are about as strong.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

NUM_LEVELS = 256
"""Equal shares of the range from 0 to a row's strongest entry: how strong an entry is, roughly."""
LARGEST = 1e308
"""So that rows of values next to 0 have levels, too."""


@njit(cache=True)
def _is_weaker(values, columns, one, other):  # type: ignore[no-untyped-def]
    if values[one] != values[other]:
        return values[one] < values[other]
    return columns[one] > columns[other]


@njit(cache=True)
def _sink(heap, first, size, at, values, columns):  # type: ignore[no-untyped-def]
    """Lets an entry of the heap in `heap[first : first + size]` sink to where none below is weaker.

    The entry is the one at place `at` of that heap.
    """
    entry = heap[first + at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        other = child + 1
        if other < size and _is_weaker(values, columns, heap[first + other], heap[first + child]):
            child = other
        if not _is_weaker(values, columns, heap[first + child], entry):
            break
        heap[first + at] = heap[first + child]
        at = child
    heap[first + at] = entry


@njit(cache=True)
def _level(value, scale):  # type: ignore[no-untyped-def]
    return max(int(value * scale), 0)


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
    if stop - start <= k:
        for entry in range(start, stop):
            heap[size] = entry
            size += values[entry] > 0
        return size
    strongest = values[start]
    for entry in range(start + 1, stop):
        strongest = max(strongest, values[entry])
    if not strongest > 0:
        return 0
    scale = min((NUM_LEVELS - 0.5) / strongest, LARGEST)
    counts = np.zeros(NUM_LEVELS, np.int64)
    for entry in range(start, stop):
        counts[_level(values[entry], scale)] += 1
    level, num_above = NUM_LEVELS - 1, 0
    while level > 0 and num_above + counts[level] < k:
        num_above += counts[level]
        level -= 1
    room, above = k - num_above, 0
    for entry in range(start, stop):
        own = _level(values[entry], scale)
        if own < level or not values[entry] > 0:
            continue
        if own > level:
            heap[above] = entry
            above += 1
        elif size < room:
            heap[num_above + size] = entry
            size += 1
            if size == room:
                for at in range(room // 2 - 1, -1, -1):
                    _sink(heap, num_above, room, at, values, columns)
        elif _is_weaker(values, columns, heap[num_above], entry):
            heap[num_above] = entry
            _sink(heap, num_above, room, 0, values, columns)
    return num_above + size


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
