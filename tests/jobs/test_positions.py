from datetime import UTC, date, datetime, timedelta
from math import exp

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.positions import FRACTION_BITS, SUMS, Histories, Slice, sum_items
from schemas.sequences import SEQUENCES
from schemas.settings import ItemGraphSettings

DS = date(2017, 10, 31)
END = datetime(2017, 11, 1, tzinfo=UTC)
USERS = [([1, 2, 1], 2), ([3], 1), ([2, 2, 4, 1], 4)]
"""Histories and how many of their actions are training actions."""


@pytest.fixture
def write(publish_rows, tmp_path):
    """Writes the positions of `USERS`, in row groups of two users, with action p p days old."""
    rows = [
        {
            "user_id": f"u{n}",
            "item_indices": items,
            "event_times": [END - timedelta(days=len(items) - p) for p in range(len(items))],
            "num_train": num_train,
            "num_validation": 0,
            "num_holdout": len(items) - num_train,
        }
        for n, (items, num_train) in enumerate(USERS)
    ]
    table = publish_rows(SEQUENCES, rows).read()
    pq.write_table(table, tmp_path / "users.parquet", row_group_size=2)

    def write(order=(0, 1), **changes):
        histories = Histories(tmp_path, 4, ItemGraphSettings(**changes), DS)
        histories.create(1 + 3 + 2 + 5)
        slices = [Slice(n, tmp_path / "users.parquet", n, o) for n, o in ((0, 1), (1, 6))]
        for number in order:
            histories.write(slices[number])
        return histories

    return write


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0)])
def test_users_stand_one_after_the_other_whatever_slice_is_written_first_or_again(write, order):
    items, strengths = write(order).open()
    assert items.tolist() == [0, 1, 2, 0, 3, 0, 2, 2, 4, 1, 0]
    assert strengths.tolist() == []


def test_strengths_fall_with_age_and_length(write):
    _, strengths = write(time_decay_days=2.0, user_damping=0.5).open()
    ages = [0, 3, 2, 0, 1, 0, 4, 3, 2, 1, 0]
    lengths = [0, 2, 2, 0, 1, 0, 4, 4, 4, 4, 0]
    expected = [n**-0.25 * exp(-a / 4) if n else 0 for a, n in zip(ages, lengths, strict=True)]
    np.testing.assert_allclose(strengths, expected, atol=1e-12)


def test_sums_over_users_in_literal_numbers(write):
    sums = dict(zip(SUMS, write().read_sums(2).tolist(), strict=True))
    assert sums["actions"] == [0, 2, 3, 1, 1]
    assert sums["own_whole"] == [0, 2, 1 + 4, 1, 1]
    assert sums["frequency_whole"] == [0, 2, 3, 1, 1]
    assert not any(sums["own_fraction"]) and not any(sums["frequency_fraction"])


lists_of_actions = st.lists(
    st.lists(st.tuples(st.integers(1, 4), st.floats(0, 1)), min_size=1, max_size=6),
    min_size=1,
    max_size=5,
)


def sums_of(users):
    actions = [action for user in users for action in user]
    items, strengths = (np.array(column) for column in zip(*actions, strict=True))
    lengths = np.array([len(user) for user in users])
    return sum_items(items.astype(np.int32), lengths, strengths.astype(float), 4)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(lists_of_actions)
def test_own_weight_and_frequency_equal_loops_over_users_and_items(users):
    sums = sums_of(users)
    own, frequency = np.zeros(5), np.zeros(5)
    for user in users:
        for item in range(1, 5):
            strength = sum(s for i, s in user if i == item)
            own[item] += strength**2
            frequency[item] += strength
    fractions = np.ldexp(sums[[2, 4]].astype(float), -FRACTION_BITS)
    np.testing.assert_allclose(sums[[1, 3]] + fractions, [own, frequency], atol=1e-10)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(lists_of_actions, st.data())
def test_op20_sums_are_equal_to_the_bit_for_any_spread_of_users(users, data):
    shuffled, cut = data.draw(st.permutations(users)), data.draw(st.integers(1, len(users)))
    parts = [part for part in (shuffled[:cut], shuffled[cut:]) if part]
    np.testing.assert_array_equal(sum(map(sums_of, parts)), sums_of(users))
