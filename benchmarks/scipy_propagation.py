"""Scipy propagation: label propagation as sparse products of scipy, in one process.

The rival of `jobs/soft_targets.py`: Penumbra's own first kernel, kept as it was when compiled
ones took its place. Same rule, same pruning, same result: rows are computed from themselves and
the graph alone, frozen at their own convergence and pruned to their own largest entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from schemas.settings import SoftTargetsSettings

SEEDS_AT_ONCE = 512
"""Rows of one sparse product; 512 was the fastest, and it bounds memory."""

SLAB_ENTRIES = 4_000_000
"""Padded entries selected from at once; bounds memory, not the result."""

ROUNDING = 1e-6
"""Relative slack when changes of two iterations are compared."""


def propagate_all(
    files: Sequence[Path], num_items: int, settings: SoftTargetsSettings
) -> sparse.csr_array:
    """Y [V + 1, V + 1] from the part files of an item graph; row 0 is empty."""
    names = ["item_index", "neighbour_index", "weight"]
    edges = pa.concat_tables([pq.ParquetFile(file).read(columns=names) for file in files])
    graph = transition(num_items, *(edges[name].to_numpy() for name in names))
    identity = sparse.eye_array(num_items + 1, format="csr")
    graph_and_seeds = sparse.vstack([graph, identity], format="csr")
    seeds = np.arange(1, num_items + 1, dtype=np.int32)
    blocks = [
        propagate(seeds[n : n + SEEDS_AT_ONCE], graph_and_seeds, settings)
        for n in range(0, num_items, SEEDS_AT_ONCE)
    ]
    return sparse.vstack([sparse.csr_array((1, num_items + 1)), *blocks], format="csr")


def transition(
    num_items: int,
    item: NDArray[np.int32],
    neighbour: NDArray[np.int32],
    weight: NDArray[np.float64],
) -> sparse.csr_array:
    """The row-stochastic graph S, [V + 1, V + 1]; an item without edges leads to itself."""
    has_weight = weight > 0
    item, neighbour, weight = item[has_weight], neighbour[has_weight], weight[has_weight]
    total = np.bincount(item, weights=weight, minlength=num_items + 1)
    alone = np.flatnonzero(total == 0).astype(np.int32)
    rows, columns = np.concatenate([item, alone]), np.concatenate([neighbour, alone])
    share = np.concatenate([weight / total[item], np.ones(len(alone))])
    return sparse.csr_array((share, (rows, columns)), shape=(num_items + 1, num_items + 1))


def propagate(
    seeds: NDArray[np.int32], graph_and_seeds: sparse.csr_array, settings: SoftTargetsSettings
) -> sparse.csr_array:
    """Label mass that reached items from each of N seeds.

    Args:
        seeds: Item indices, N long.
        graph_and_seeds: [S; I], [2 (V + 1), V + 1]; one product [α Y | (1-α) Y_0] · [S; I]
            moves mass and adds the seeds.
        settings: α, tolerance, max_iterations and top_k.

    Returns:
        Y [N, V + 1], columns ascending, at most `top_k` per row.
    """
    num_seeds, width = len(seeds), graph_and_seeds.shape[1]
    ones, one_each = np.ones(num_seeds), np.arange(num_seeds + 1)
    start = sparse.csr_array((ones, seeds, one_each), shape=(num_seeds, width))
    never = np.zeros(num_seeds, bool)
    most = np.full(num_seeds, 2.0)
    rows = _Rows(np.arange(num_seeds), start, start, change=most, is_pruned=never, is_held=never)
    finished: list[_Rows] = []
    for _ in range(settings.max_iterations):
        if not rows.seed.size:
            break
        rows = _iterate(rows, graph_and_seeds, settings)
        is_converged = rows.change < settings.tolerance
        finished.append(rows.take(np.flatnonzero(is_converged)))
        rows = rows.take(np.flatnonzero(~is_converged))
    order = np.argsort(np.concatenate([r.seed for r in (*finished, rows)]))
    return sparse.vstack([r.mass for r in (*finished, rows)], format="csr")[order]


@dataclass(frozen=True)
class _Rows:
    """N rows in iteration: the seed's number, Y_t, Y_0, the last L1 change, and their state."""

    seed: NDArray[np.int64]
    mass: sparse.csr_array
    start: sparse.csr_array
    change: NDArray[np.float64]
    is_pruned: NDArray[np.bool_]
    is_held: NDArray[np.bool_]

    def take(self, order: NDArray[np.int64]) -> "_Rows":
        return _Rows(*(getattr(self, name)[order] for name in self.__dataclass_fields__))


def _iterate(
    rows: _Rows, graph_and_seeds: sparse.csr_array, settings: SoftTargetsSettings
) -> _Rows:
    """One iteration of all rows, which come back in another order: held ones last.

    A row that was pruned and whose change does not fall by α is held: it keeps to its columns
    from there on (docs/decisions/0005-a-pruned-row-holds-its-columns.md).
    """
    rows = rows.take(np.argsort(rows.is_held, kind="stable"))
    num_free = int(np.count_nonzero(~rows.is_held))
    moved = [settings.alpha * rows.mass, (1 - settings.alpha) * rows.start]
    spread = sparse.hstack(moved, format="csr")
    free, held = spread[:num_free] @ graph_and_seeds, spread[num_free:] @ graph_and_seeds
    is_pruned = rows.is_pruned.copy()
    is_pruned[:num_free] |= np.diff(free.indptr) > settings.top_k
    held_columns = rows.mass[num_free:].astype(bool)
    kept = [keep_top_k(free, settings.top_k), held.multiply(held_columns)]
    mass = sparse.vstack(kept, format="csr")
    mass.sort_indices()
    change = abs(mass - rows.mass).sum(axis=1)
    falls = change <= settings.alpha * rows.change * (1 + ROUNDING)
    is_held = rows.is_held | (is_pruned & ~falls)
    return replace(rows, mass=mass, change=change, is_pruned=is_pruned, is_held=is_held)


def keep_top_k(matrix: sparse.csr_array, k: int) -> sparse.csr_array:
    """A matrix of the same shape with the k largest positive entries of every row.

    Args:
        matrix: R rows without repeated columns, in any order within a row; values ≥ 0.
        k: Entries to keep per row, ≥ 1; of equal ones those with the smaller column.
    """
    degrees = np.diff(matrix.indptr)
    row = np.repeat(np.arange(len(degrees)), degrees)
    limit = _kth_largest_of_long_rows(matrix, degrees, k)[row]
    keep = matrix.data > limit
    ties = np.flatnonzero(matrix.data == limit)
    if ties.size:
        ties = ties[np.lexsort((matrix.indices[ties], row[ties]))]
        row_of_tie = row[ties]
        rank = np.arange(len(ties)) - np.searchsorted(row_of_tie, row_of_tie)
        num_above = np.bincount(row[keep], minlength=len(degrees))
        keep[ties[rank < k - num_above[row_of_tie]]] = True
    keep &= matrix.data > 0
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    parts = (matrix.data[keep], matrix.indices[keep], kept_before[matrix.indptr])
    kept = sparse.csr_array(parts, shape=matrix.shape)
    kept.sort_indices()
    return kept


def _kth_largest_of_long_rows(
    matrix: sparse.csr_array, degrees: NDArray[np.int32], k: int
) -> NDArray[np.float64]:
    """Per row the k-th largest value; -inf for rows of at most k entries.

    Rows are taken together by size, padded to a power of two.
    """
    limits = np.full(len(degrees), -np.inf)
    long_rows = np.flatnonzero(degrees > k)
    exponents = np.ceil(np.log2(degrees[long_rows])).astype(int)
    for exponent in np.unique(exponents):
        rows, width = long_rows[exponents == exponent], 1 << int(exponent)
        for slab in np.array_split(rows, -(-len(rows) * width // SLAB_ENTRIES)):
            entry = matrix.indptr[slab].astype(np.int64)[:, None] + np.arange(width)
            is_entry = np.arange(width) < degrees[slab][:, None]
            padded = matrix.data[np.minimum(entry, matrix.nnz - 1)]
            padded[~is_entry] = -np.inf
            padded.partition(width - k, axis=1)
            limits[slab] = padded[:, width - k]
    return limits
