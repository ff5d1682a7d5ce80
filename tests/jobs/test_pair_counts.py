from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from math import exp

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import pair_counts
from jobs.pair_counts import (
    OWN_FRACTION_BITS,
    Counting,
    fraction_bits,
    merge,
    num_position_pairs,
    own_weights,
)
from schemas.contract import TIMESTAMP
from schemas.settings import ItemGraphSettings

NUM_ITEMS = 6
DS = date(2017, 10, 31)
END = datetime(2017, 11, 1, tzinfo=UTC)
quick = settings(derandomize=True, deadline=None, max_examples=40)


@st.composite
def histories(draw):
    """Users as (items, ages in days oldest first, num_train)."""
    users = []
    for _ in range(draw(st.integers(1, 6))):
        items = draw(st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=9))
        ages = draw(st.lists(st.integers(0, 40), min_size=len(items), max_size=len(items)))
        users.append((items, sorted(ages, reverse=True), draw(st.integers(1, len(items)))))
    return users


kinds = st.builds(
    ItemGraphSettings,
    window=st.integers(1, 10),
    position_decay=st.sampled_from([1.0, 0.8, 0.3]),
    time_decay_days=st.sampled_from([0.0, 7.0, 30.0]),
    user_damping=st.sampled_from([0.0, 0.5, 1.0]),
    direction=st.sampled_from(["symmetric", "forward"]),
)


def batch_of(users):
    lists = {
        "item_indices": pa.array([items for items, _, _ in users], pa.list_(pa.int32())),
        "event_times": pa.array(
            [[END - timedelta(days=a) for a in ages] for _, ages, _ in users], pa.list_(TIMESTAMP)
        ),
        "num_train": pa.array([n for _, _, n in users], pa.int32()),
    }
    return pa.RecordBatch.from_pydict(lists)


def counting_of(users, kind):
    lengths = np.array([n for _, _, n in users])
    bits = fraction_bits(num_position_pairs(lengths, kind.window))
    return Counting(NUM_ITEMS, kind, DS, bits)


def counted(batches, counting, bounds=(0, NUM_ITEMS + 1)):
    """Dense int64 [V + 1, V + 1] in units, bucket by bucket through the packed form."""
    packed = list(pair_counts.pair_counts(batches, counting, np.array(bounds)))
    return np.vstack(
        [
            merge(
                [p for p in packed if p["bucket"][0].as_py() == b],
                bounds[b + 1] - bounds[b],
                NUM_ITEMS + 1,
            ).toarray()
            for b in range(len(bounds) - 1)
        ]
    )


def pair_weights_by_loops(users, kind):
    weights = np.zeros((NUM_ITEMS + 1, NUM_ITEMS + 1))
    tau = kind.time_decay_days
    for items, ages, num_train in users:
        for p, q in combinations(range(num_train), 2):
            i, j = items[p], items[q]
            if q - p <= kind.window and i != j:
                age = (ages[p] + ages[q]) / 2
                weight = kind.position_decay ** (q - p - 1) * (exp(-age / tau) if tau else 1)
                weight *= num_train**-kind.user_damping
                weights[i, j] += weight
                weights[j, i] += weight * (kind.direction == "symmetric")
    return weights


@quick
@given(histories(), kinds)
def test_pair_weights_equal_a_double_loop_over_positions(users, kind):
    counting = counting_of(users, kind)
    found = np.ldexp(counted([batch_of(users)], counting).astype(float), -counting.bits)
    np.testing.assert_allclose(found, pair_weights_by_loops(users, kind), atol=1e-9)


@quick
@given(histories(), kinds, st.data())
def test_op20_counts_are_equal_to_the_bit_for_any_order_batches_and_buckets(users, kind, data):
    counting = counting_of(users, kind)
    whole = counted([batch_of(users)], counting)
    shuffled = data.draw(st.permutations(users))
    cut = data.draw(st.integers(1, len(users)))
    batches = [batch_of(part) for part in (shuffled[:cut], shuffled[cut:])]
    inner = sorted(data.draw(st.lists(st.integers(0, NUM_ITEMS + 1), max_size=3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_counts, "PAIRS_AT_ONCE", data.draw(st.integers(1, 40)))
        found = counted(batches, counting, (0, *inner, NUM_ITEMS + 1))
    np.testing.assert_array_equal(found, whole)


@quick
@given(histories(), kinds)
def test_positions_after_num_train_count_nothing(users, kind):
    counting = counting_of(users, kind)
    trained = [(items[:n], ages[:n], n) for items, ages, n in users]
    np.testing.assert_array_equal(
        counted([batch_of(users)], counting), counted([batch_of(trained)], counting)
    )


def test_a_slice_of_a_batch_counts_its_own_users_only():
    users = [([1, 2], [1, 0], 2), ([3, 4], [1, 0], 2), ([5, 6], [1, 0], 2)]
    counting = counting_of(users, ItemGraphSettings())
    found = counted([batch_of(users).slice(1, 1)], counting)
    assert np.argwhere(found).tolist() == [[3, 4], [4, 3]]


@quick
@given(histories(), kinds)
def test_own_weights_equal_a_loop_over_users_and_items(users, kind):
    counting = counting_of(users, kind)
    expected, actions = np.zeros(NUM_ITEMS + 1), np.zeros(NUM_ITEMS + 1)
    for items, ages, n in users:
        for item in set(items[:n]):
            factors = [
                exp(-a / (2 * kind.time_decay_days)) if kind.time_decay_days else 1.0
                for i, a in zip(items[:n], ages[:n], strict=True)
                if i == item
            ]
            expected[item] += n**-kind.user_damping * sum(factors) ** 2
            actions[item] += len(factors)
    (found,) = own_weights([batch_of(users[:1]), batch_of(users[1:])], counting)
    index = found["item_index"].to_numpy()
    own = found["whole"].to_numpy() + np.ldexp(found["fraction"].to_numpy(), -OWN_FRACTION_BITS)
    np.testing.assert_allclose(own, expected[index], atol=1e-10)
    np.testing.assert_array_equal(found["actions"].to_numpy(), actions[index])
    assert index.tolist() == np.flatnonzero(actions).tolist()


@quick
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 12))
def test_op19_the_pair_budget_counts_every_pair_of_positions_exactly(lengths, window):
    pairs = sum(q - p <= window for n in lengths for p, q in combinations(range(n), 2))
    assert num_position_pairs(np.array(lengths), window) == pairs


def test_op19_a_history_100_times_as_long_has_at_most_window_pairs_per_action():
    assert num_position_pairs(np.array([20]), 10) == 145
    assert num_position_pairs(np.array([2000]), 10) == 19_945


@pytest.mark.parametrize("num_pairs", [1, 1_000, 2_000_000_000, 2**40, 2**61])
def test_the_heaviest_sum_of_all_pairs_fits_64_bits(num_pairs):
    assert num_pairs * 2 ** fraction_bits(num_pairs) < 2**63
    assert 0 <= fraction_bits(num_pairs) <= 40
