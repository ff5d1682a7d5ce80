"""Top k: the largest entries of every row of a sparse matrix, ties to the smaller column.

The one selection that item graph and propagation share. It never orders a whole row: it finds
each row's k-th largest value and keeps what lies above it.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

SLAB_ENTRIES = 4_000_000
"""Padded entries selected from at once; bounds memory, not the result."""


def keep_top_k(matrix: sparse.csr_array, k: int) -> sparse.csr_array:
    """A matrix of the same shape with the entries `is_among_top_k` names, columns ascending."""
    keep = is_among_top_k(matrix, k)
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    parts = (matrix.data[keep], matrix.indices[keep], kept_before[matrix.indptr])
    kept = sparse.csr_array(parts, shape=matrix.shape)
    kept.sort_indices()
    return kept


def is_among_top_k(matrix: sparse.csr_array, k: int) -> NDArray[np.bool_]:
    """For every stored entry, whether it is one of the k largest positive ones of its row.

    Args:
        matrix: R rows without repeated columns, in any order within a row; values ≥ 0.
        k: Entries to keep per row, ≥ 1; of equal ones those with the smaller column.
    """
    degrees = np.diff(matrix.indptr)
    limit_of_row = _kth_largest_of_long_rows(matrix, degrees, k)
    row = np.repeat(np.arange(len(degrees)), degrees)
    limit = limit_of_row[row]
    keep = matrix.data > limit
    ties = np.flatnonzero(matrix.data == limit)
    if ties.size:
        ties = ties[np.lexsort((matrix.indices[ties], row[ties]))]
        row_of_tie = row[ties]
        rank = np.arange(len(ties)) - np.searchsorted(row_of_tie, row_of_tie)
        num_above = np.bincount(row[keep], minlength=len(degrees))
        keep[ties[rank < k - num_above[row_of_tie]]] = True
    return keep & (matrix.data > 0)


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
