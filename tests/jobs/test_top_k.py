import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from jobs import top_k
from jobs.top_k import keep_top_k

quick = settings(derandomize=True, deadline=None, max_examples=100)
few_values = st.lists(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=9, max_size=9), min_size=1, max_size=6
)


def keep_by_sorting(dense, k):
    kept = np.zeros_like(dense)
    for row, values in enumerate(dense):
        strongest = sorted(range(len(values)), key=lambda column: (-values[column], column))[:k]
        kept[row, strongest] = values[strongest]
    return kept


@quick
@given(few_values, st.integers(1, 9), st.integers(1, 20), st.integers(0, 99))
def test_kept_entries_are_those_of_a_full_sort(rows, k, slab, seed):
    dense = np.array(rows)
    matrix = sparse.csr_array(dense)
    row = np.repeat(np.arange(len(dense)), np.diff(matrix.indptr))
    order = np.lexsort((np.random.default_rng(seed).random(matrix.nnz), row))
    jumbled = (matrix.data[order], matrix.indices[order], matrix.indptr)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_k, "SLAB_ENTRIES", slab)
        kept = keep_top_k(sparse.csr_array(jumbled, shape=dense.shape), k)
    np.testing.assert_array_equal(kept.toarray(), keep_by_sorting(dense, k))


def test_of_equal_entries_the_smaller_columns_stay():
    matrix = sparse.csr_array(([2.0, 2.0, 5.0, 2.0], [7, 3, 9, 1], [0, 4]), shape=(1, 10))
    kept = keep_top_k(matrix, 3)
    assert kept.indices.tolist() == [1, 3, 9]
    assert kept.data.tolist() == [2.0, 2.0, 5.0]


def test_stored_zeros_are_never_kept():
    matrix = sparse.csr_array(([0.0, 1.0, 0.0], [0, 1, 2], [0, 3]), shape=(1, 3))
    assert keep_top_k(matrix, 2).indices.tolist() == [1]


def test_a_matrix_without_entries_stays_empty():
    assert keep_top_k(sparse.csr_array((3, 4)), 2).nnz == 0
