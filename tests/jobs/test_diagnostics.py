from math import log

import numpy as np
import pytest

from jobs.diagnostics import HITS, hits, popularity_ranks, shape, summary

ROWS = (np.array([0, 2, 3]), np.array([1, 2, 3], np.int32), np.array([0.5, 0.25, 1.0]))
"""Two rows: half of the mass on item 1 and a quarter on 2; all of it on 3."""


def lists(*items):
    """Lists of items of several users, as ends and items."""
    ends = np.concatenate([[0], np.cumsum([len(i) for i in items])])
    return ends, np.array([i for user in items for i in user], np.int32)


def shape_of(*seeds):
    ends, items = lists(*seeds)
    return shape(ROWS, items, ends, 5)


def test_the_shape_of_two_rows_in_literal_numbers():
    found = shape_of([1], [3])
    assert (found.rows, found.dropped_mass, found.seed_mass) == (2, 0.25, 1.5)
    assert found.entropy == pytest.approx(-0.5 * log(0.5) - 0.25 * log(0.25))
    assert np.flatnonzero(np.unpackbits(found.reached)).tolist() == [2]


def test_a_user_has_all_its_items_as_seeds():
    found = shape_of([2, 1, 2], [1])
    assert found.seed_mass == 0.75
    assert np.flatnonzero(np.unpackbits(found.reached)).tolist() == [3]


def counts(validation, histories=((), ()), ranks=(9, 3, 0, 2, 1)):
    found = hits(ROWS, np.array([0, 1]), lists(*histories), lists(*validation), np.array(ranks))
    return dict(zip(HITS, found.tolist(), strict=True))


def test_validation_items_are_hits_where_the_row_has_them_and_repeats_count_once():
    found = counts(([2, 2, 3], [3, 1]))
    assert (found["relevant"], found["hits"]) == (4, 2)


def test_as_many_popular_items_as_the_row_has_entries_stand_beside():
    found = counts(([2, 4, 3], [4, 2]))
    assert found["popular_hits"] == 3


def test_items_new_to_the_user_are_counted_apart():
    found = counts(([2, 1, 4], [3]), histories=([1, 1], [3]))
    assert [found[n] for n in HITS] == [4, 3, 2, 2, 1, 2]


def test_ranks_go_by_support_and_then_by_index():
    assert popularity_ranks(np.array([0, 5, 9, 5, 7])).tolist() == [5, 2, 0, 3, 1]


def test_a_summary_holds_means_and_shares_over_all_tasks():
    count = np.array([4, 3, 1, 2, 1, 0])
    notes = summary([shape_of([1], [3]), shape_of([2], [1])], [count, count], 4)
    assert notes["rows"] == 4
    assert notes["mean_dropped_mass"] == 0.125
    assert notes["mean_seed_mass"] == pytest.approx((1.5 + 0.25) / 4)
    assert notes["coverage"] == 3 / 4
    assert notes["validation"] == {"items": 8, "hit_rate": 0.75, "popular_hit_rate": 0.25}
    assert notes["validation_new_to_user"]["hit_rate"] == 0.5


def test_without_validation_there_is_no_hit_rate():
    notes = summary([shape_of([1], [3])], [np.zeros(6, np.int64)], 4)
    assert notes["validation"] == notes["validation_new_to_user"] == {"items": 0}
