"""Pair counts: the exact kernel of the item graph, compiled, for one range of items at a time.

    w(i,j) = Σ_u a(n_u) Σ_{p<q, q-p ≤ window, x_p≠x_q} γ^(q-p-1) · exp(-age/τ)

A pair's age is the mean age of its two actions, so that exp(-age/τ) is a product of one factor
per action: a pair weighs γ^(q-p-1) s_p s_q, with the strengths s of `jobs/positions.py`.

For every item the kernel walks over its actions and adds up what stands within the window beside
them; nothing is sorted, and no pair leaves the task that counts it. Weights are summed as
integers, in units of 2^-bits: integer addition is associative, so the sums do not depend on the
order of users, nor on how items are spread over tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from jobs.prefetch import prefetch
from schemas.settings import ItemGraphSettings

COUNTS_AT_ONCE = 200_000
"""Pairs of items counted before they are pruned: in cache, and no result depends on it."""
AHEAD, LINES_AROUND, POSITIONS_OF_A_LINE = 2, 4, 16
"""How many of an item's places beforehand what stands around one is asked for, and how much of it.
"""


@dataclass(frozen=True)
class Counts:
    """Summed pair weights of the items [first, first + R), int64 units of 2^-bits, as CSR rows."""

    first: int
    ends: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    units: NDArray[np.int64]


def num_position_pairs(lengths: NDArray[np.int64], window: int) -> int:
    """The exact number of pairs p<q, q-p ≤ window of histories of these lengths."""
    longest = int(lengths.max(initial=0))
    reach = np.minimum(min(window, longest), np.maximum(lengths.astype(np.int64) - 1, 0))
    return int((reach * lengths - reach * (reach + 1) // 2).sum())


def counted_share(lengths: NDArray[np.int64], settings: ItemGraphSettings) -> float:
    """Weight of the pairs within the window, over that of all pairs of histories of these lengths.

    A pair d positions apart weighs γ^(d-1), and 1 in whole histories, both damped as a(n) says;
    that near pairs are of more equal age is left out. Where edges lead forward only, two items have
    half of their pairs in each direction.
    """
    longest = int(lengths.max(initial=0))
    damping = np.arange(longest + 1).clip(1) ** -settings.user_damping
    # Damped pairs of all histories by how far they are apart: of n actions n - d.
    num_longer = np.cumsum((np.bincount(lengths, minlength=1) * damping)[::-1])[::-1]
    pairs = np.cumsum(num_longer[:0:-1])[::-1][1:]
    if not pairs.sum():
        return 1.0
    near = pairs[: settings.window]
    counted = near @ settings.position_decay ** np.arange(len(near), dtype=np.float64)
    return float(counted / pairs.sum() / (2 if settings.direction == "forward" else 1))


def fraction_bits(num_pairs: int) -> int:
    """Bits after the point with which `num_pairs` weights of at most 1 cannot overflow 64 bits.

    One number for all graphs of up to 2 billion pairs, that their weights may be compared.
    """
    return min(31, 62 - num_pairs.bit_length())


def count_pairs(
    items: NDArray[np.int32],
    strengths: NDArray[np.float64],
    first: int,
    end: int,
    num_items: int,
    settings: ItemGraphSettings,
    bits: int,
) -> Iterator[Counts]:
    """Counts the neighbours of the items [first, end), in batches of whole items.

    Args:
        items: Positions, 0 before and after every user (`jobs/positions.py`).
        strengths: Of the same positions, or empty where all are 1.
        first: First item to count for, ≥ 1.
        end: End of the range, ≤ V + 1.
        num_items: V.
        settings: Window, position decay and direction.
        bits: Weights are units of 2^-bits.
    """
    ends, places = _places_of_items(items, first, end)
    decay = settings.position_decay ** np.arange(settings.window, dtype=np.float64)
    decay_units = np.rint(np.ldexp(decay, bits)).astype(np.int64)
    reach = (settings.window, 1 if settings.direction == "forward" else 0)
    found = np.zeros(num_items + 1, np.int64)
    capacity = COUNTS_AT_ONCE + num_items + 2
    neighbours, units = np.empty(capacity, np.int32), np.empty(capacity, np.int64)
    row = 0
    while row < end - first:
        row_ends = np.zeros(end - first - row + 1, np.int64)
        num_rows = _count(
            items, strengths, places, ends[row:], reach, decay, decay_units, 2.0**bits,
            found, neighbours, units, row_ends,
        )  # fmt: skip
        size = row_ends[num_rows]
        yield Counts(first + row, row_ends[: num_rows + 1], neighbours[:size], units[:size])
        row += num_rows


@njit(cache=True)
def _places_of_items(items, first, end):  # type: ignore[no-untyped-def]
    """Where the items [first, end) stand: row ends, and places item after item."""
    ends = np.zeros(end - first + 1, np.int64)
    for item in items:
        if first <= item < end:
            ends[item - first + 1] += 1
    ends = np.cumsum(ends)
    places, next_place = np.empty(ends[-1], np.int64), ends[:-1].copy()
    for place, item in enumerate(items):
        if first <= item < end:
            places[next_place[item - first]] = place
            next_place[item - first] += 1
    return ends, places


@njit(cache=True)
def _count(  # type: ignore[no-untyped-def]
    items, strengths, places, ends, reach, decay, decay_units, scale, found, neighbours, units,
    row_ends,
):  # fmt: skip
    """Counts items, one row each, until the next could be too many; returns the rows counted."""
    window, is_forward = reach
    num_found = row = 0
    while row < len(ends) - 1 and num_found + len(found) <= len(neighbours):
        start = num_found
        for at in range(ends[row], ends[row + 1]):
            place, soon = places[at], places[min(at + AHEAD, len(places) - 1)]
            for line in range(-LINES_AROUND, LINES_AROUND):
                prefetch(items, soon + line * POSITIONS_OF_A_LINE)
            own = items[place]
            found[own] = 1  # so that it is never new
            for step in (1, -1):
                if step == -1 and is_forward:
                    break
                for distance in range(1, window + 1):
                    other = place + step * distance
                    neighbour = items[other]
                    if neighbour == 0:
                        break
                    if len(strengths):
                        pair = strengths[min(place, other)] * strengths[max(place, other)]
                        weight = np.int64(np.rint(decay[distance - 1] * pair * scale))
                    else:
                        weight = decay_units[distance - 1]
                    # Without a branch: whether a neighbour is new cannot be foretold.
                    before = found[neighbour]
                    neighbours[num_found] = neighbour
                    num_found += (before == 0) & (weight != 0)
                    found[neighbour] = before + weight
            found[own] = 0
        for at in range(start, num_found):
            units[at] = found[neighbours[at]]
            found[neighbours[at]] = 0
        row += 1
        row_ends[row] = num_found
    return row
