from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.top_k import top_k_of_rows

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


def kept(columns, values, k, ends=None):
    """Columns and values of the kept entries, row after row."""
    columns, values = np.array(columns, np.int32), np.array(values)
    ends = np.array([0, len(columns)]) if ends is None else ends
    places, kept_ends = top_k_of_rows(ends, columns, values, k)
    return columns[places].tolist(), values[places].tolist(), kept_ends.tolist()


@quick
@given(few_values, st.integers(1, 9), st.integers(0, 99))
def test_kept_entries_are_those_of_a_full_sort(rows, k, seed):
    dense = np.array(rows)
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(9), (len(dense), 1)), axis=1)
    values = np.take_along_axis(dense, order, axis=1)
    ends = 9 * np.arange(len(dense) + 1)
    columns, masses, kept_ends = kept(order.ravel(), values.ravel(), k, ends)
    found = np.zeros_like(dense)
    found[np.repeat(np.arange(len(dense)), np.diff(kept_ends)), columns] = masses
    np.testing.assert_array_equal(found, keep_by_sorting(dense, k))
    for start, end in pairwise(kept_ends):
        assert columns[start:end] == sorted(columns[start:end])


@pytest.mark.parametrize("unit", [5e-324, 1e-300, 1.0, 1e300, 2.0**50], ids=str)
@pytest.mark.parametrize("k", [1, 7, 50])
def test_entries_of_any_size_are_those_of_a_full_sort(unit, k):
    draw = np.random.default_rng(k)
    dense = np.floor(draw.lognormal(0, 2.5, (20, 200))).clip(0, 4000).astype(type(unit)) * unit
    order = draw.permuted(np.tile(np.arange(200), (20, 1)), axis=1)
    values = np.take_along_axis(dense, order, axis=1)
    columns, masses, kept_ends = kept(order.ravel(), values.ravel(), k, 200 * np.arange(21))
    found = np.zeros_like(dense)
    found[np.repeat(np.arange(20), np.diff(kept_ends)), columns] = masses
    np.testing.assert_array_equal(found, keep_by_sorting(dense, k))


def test_of_equal_entries_the_smaller_columns_stay():
    columns, values, _ = kept([7, 3, 9, 1], [2.0, 2.0, 5.0, 2.0], 3)
    assert columns == [1, 3, 9]
    assert values == [2.0, 2.0, 5.0]


def test_negative_entries_are_never_kept():
    assert kept([0, 1, 2, 3], [-5.0, 1.0, -1e308, 3.0], 3) == ([1, 3], [1.0, 3.0], [0, 2])
    assert kept([0, 1, 2], [-5.0, -1.0, -2.0], 2) == ([], [], [0, 0])


def test_zeros_are_never_kept():
    assert kept([0, 1, 2], [0.0, 1.0, 0.0], 2) == ([1], [1.0], [0, 1])


def test_rows_without_entries_stay_empty():
    assert kept([], np.zeros(0), 2, np.zeros(4, int)) == ([], [], [0, 0, 0, 0])
