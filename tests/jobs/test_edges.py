import numpy as np
import pytest
from scipy import sparse

from jobs.edges import Pruning, edges
from jobs.normalisers import ItemWeights
from schemas.settings import ItemGraphSettings

UNIT = 2**10


def rows(counts, **settings):
    own = ItemWeights(own=np.ones(len(counts[0])))
    kind = ItemGraphSettings(normaliser="raw", **settings)
    matrix = sparse.csr_array(np.array(counts, dtype=np.int64))
    columns = edges(matrix, 1, Pruning(kind, own, np.array([1, 1 + len(counts)]), bits=10))
    return [tuple(row) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def test_units_become_weights_and_rows_start_at_the_first_item():
    found = rows([[0, 0, 3 * UNIT], [0, UNIT // 2, 0]])
    assert found == [(1, 2, 3.0, 3.0), (2, 1, 0.5, 0.5)]


def test_the_strongest_neighbours_stay_in_key_order_and_ties_go_to_the_smaller_index():
    found = rows([[0, 0, UNIT, 2 * UNIT, UNIT, 5 * UNIT]], top_k=3)
    assert [neighbour for _, neighbour, _, _ in found] == [2, 3, 5]


@pytest.mark.parametrize(("least", "num_kept"), [(0.0, 3), (1.0, 2), (1.5, 1), (9.0, 0)])
def test_lighter_pairs_than_min_pair_weight_are_dropped(least, num_kept):
    found = rows([[0, 0, UNIT, 2 * UNIT, UNIT // 2]], min_pair_weight=least)
    assert len(found) == num_kept
