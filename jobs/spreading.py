"""Spreading: the compiled inner loops of propagation, one row of mass at a time.

Mass is counted in whole units of 2^-48: integer sums do not depend on their order, so a row is the
same to the bit in any block of seeds, and whether its products were summed in one task or came
together through a shuffle.
"""

import numpy as np
from numba import njit

from jobs.top_k import choose_top_k

UNIT = 2.0**48
"""Units that mass 1 consists of."""

ROUNDING = 1e-6
"""Relative slack when changes of two iterations are compared."""


@njit(cache=True)
def scratch(num_columns, width):  # type: ignore[no-untyped-def]
    """Memory for one row at a time, all `found` and `before` 0: (found, touched, before, heap)."""
    found, touched = np.zeros(num_columns, np.int64), np.empty(num_columns + 1, np.int32)
    before, heap = np.zeros(num_columns, np.int64), np.empty(width, np.int64)
    return found, touched, before, heap


@njit(cache=True)
def spread(  # type: ignore[no-untyped-def]
    items, masses, factor, first, ends, columns, shares, found, touched, num_touched
):
    """Adds what the mass on some items, times a factor, becomes along their rows of a matrix.

    Args:
        items: Items that mass is on.
        masses: Units on each.
        factor: What of them moves on.
        first: The item whose row is the first in `ends`.
        ends: Row ends, with `columns` and `shares` in CSR.
        columns: Of the matrix.
        shares: Of the matrix, ≥ 0.
        found: Units by column, added to.
        touched: Columns with units, appended to; one longer than there are columns.
        num_touched: How many there are before.

    Returns:
        How many there are after.
    """
    for at in range(len(items)):
        mass, row = factor * masses[at], items[at] - first
        for entry in range(ends[row], ends[row + 1]):
            units, column = np.int64(mass * shares[entry] + 0.5), columns[entry]
            before = found[column]
            # Without a branch: whether a column is new cannot be foretold.
            touched[num_touched] = column
            num_touched += (before == 0) & (units != 0)
            found[column] = before + units
    return num_touched


@njit(cache=True)
def add(columns, units, found, touched, num_touched):  # type: ignore[no-untyped-def]
    """Adds whole units to columns; arguments and result as in `spread`."""
    for at in range(len(columns)):
        column, before = columns[at], found[columns[at]]
        touched[num_touched] = column
        num_touched += (before == 0) & (units[at] != 0)
        found[column] = before + units[at]
    return num_touched


@njit(cache=True)
def settle(  # type: ignore[no-untyped-def]
    row, seed, block, found, touched, num_touched, before, heap, alpha
):
    """Makes what was found the row's entries, pruned, and leaves `found` and `before` at 0.

    The row's own seed is never cut: it has 1 - α at least. A row of users has none, 0.

    Without pruning a row's change falls by the factor α at least. Pruning can make columns of
    nearly the same mass take turns for ever. So a row that was pruned and whose change does not
    fall like that is held: it keeps to its columns from there on, and every further iteration
    is a contraction by α again.
    """
    columns, units, lengths, change, is_pruned, is_held = block
    total, length = 0, lengths[row]
    for at in range(length):
        before[columns[row, at]] = units[row, at]
        total += units[row, at]
    if is_held[row]:
        size = 0
        for at in range(length):
            heap[size] = columns[row, at]
            size += found[columns[row, at]] > 0
    else:
        is_pruned[row] |= num_touched > columns.shape[1]
        size = choose_columns(found, touched, num_touched, columns.shape[1], heap)
        if seed and size < num_touched:
            keep(seed, heap, size, found)
    for at in range(size):
        mass, mass_before = found[heap[at]], before[heap[at]]
        total += abs(mass - mass_before) - mass_before
    for at in range(length):
        before[columns[row, at]] = 0
    for at in range(size):
        columns[row, at], units[row, at] = heap[at], found[heap[at]]
    for at in range(num_touched):
        found[touched[at]] = 0
    falls = total / UNIT <= alpha * change[row] * (1 + ROUNDING)
    lengths[row], change[row] = size, total / UNIT
    is_held[row] |= is_pruned[row] and not falls


@njit(cache=True)
def keep(seed, heap, size, found):  # type: ignore[no-untyped-def]
    """Puts a column that is not among those in `heap` in the place of their weakest."""
    weakest = 0
    for at in range(size):
        if heap[at] == seed:
            return
        if (found[heap[at]], -heap[at]) < (found[heap[weakest]], -heap[weakest]):
            weakest = at
    heap[weakest] = seed


@njit(cache=True)
def choose_columns(found, touched, num_touched, k, heap):  # type: ignore[no-untyped-def]
    """Puts the columns of the k largest masses into `heap`; returns how many there are."""
    if num_touched <= k:
        for at in range(num_touched):
            heap[at] = touched[at]
        return num_touched
    masses = found[touched[:num_touched]]
    size = choose_top_k(masses, touched, 0, num_touched, k, heap)
    for at in range(size):
        heap[at] = touched[heap[at]]
    return size
