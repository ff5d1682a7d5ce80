import numpy as np
import pytest

from jobs.edges import Pruning, edges
from jobs.normalisers import ItemWeights
from jobs.pair_counts import Counts
from schemas.settings import ItemGraphSettings

UNIT = 2**10


def rows(counts, **settings):
    """Edges of the items from 1 on, from their dense counts in units."""
    dense, ones = np.array(counts, dtype=np.int64), np.ones(len(counts[0]))
    kind = ItemGraphSettings(normaliser="raw", **settings)
    ends = np.concatenate([[0], np.cumsum((dense > 0).sum(axis=1))])
    sparse = Counts(1, ends, np.nonzero(dense)[1].astype(np.int32), dense[dense > 0])
    columns = edges(sparse, Pruning(kind, ItemWeights(ones, ones, 1), bits=10))
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


def test_a_pair_of_just_min_pair_weight_stays_though_its_units_are_rounded():
    assert int(0.8 * UNIT) < 0.8 * UNIT
    assert len(rows([[0, 0, int(0.8 * UNIT)]], min_pair_weight=0.8)) == 1


def test_shrinkage_trusts_a_pair_of_little_weight_less():
    ((_, _, pair_weight, weight),) = rows([[0, 0, 3 * UNIT]], shrinkage=1.0)
    assert (pair_weight, weight) == (3.0, pytest.approx(3.0 * 3 / 4))
