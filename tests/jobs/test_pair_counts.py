from itertools import combinations, pairwise
from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import pair_counts
from jobs.pair_counts import count_pairs, counted_share, fraction_bits, num_position_pairs
from schemas.settings import ItemGraphSettings

NUM_ITEMS = 6
BITS = 40
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


def counted(users, kind, ranges=((1, NUM_ITEMS + 1),)):
    """Dense int64 [V + 1, V + 1] in units of 2^-`BITS`, range of items by range."""
    items, strengths = positions_of(users, kind)
    counts = np.zeros((NUM_ITEMS + 1, NUM_ITEMS + 1), np.int64)
    for first, end in ranges:
        for part in count_pairs(items, strengths, first, end, NUM_ITEMS, kind, BITS):
            item = np.repeat(np.arange(len(part.ends) - 1), np.diff(part.ends)) + part.first
            assert (counts[item, part.neighbours] == 0).all()
            counts[item, part.neighbours] = part.units
    return counts


def positions_of(users, kind):
    """Flat positions of the training actions of users, and their strengths."""
    tau, items, strengths = kind.time_decay_days, [0], [0.0]
    for history, ages, num_train in users:
        ageing = [exp(-age / (2 * tau)) if tau else 1.0 for age in ages[:num_train]]
        items += [*history[:num_train], 0]
        strengths += [*(num_train ** (-kind.user_damping / 2) * a for a in ageing), 0.0]
    are_alike = not tau and not kind.user_damping
    return np.array(items, np.int32), np.array([] if are_alike else strengths)


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
    found = np.ldexp(counted(users, kind).astype(float), -BITS)
    np.testing.assert_allclose(found, pair_weights_by_loops(users, kind), atol=1e-9)


@quick
@given(histories(), kinds, st.data())
def test_op20_counts_are_equal_to_the_bit_for_any_order_of_users_and_ranges(users, kind, data):
    shuffled = data.draw(st.permutations(users))
    inner = sorted(data.draw(st.lists(st.integers(1, NUM_ITEMS + 1), max_size=3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_counts, "COUNTS_AT_ONCE", data.draw(st.integers(0, 9)))
        found = counted(shuffled, kind, pairwise([1, *inner, NUM_ITEMS + 1]))
    np.testing.assert_array_equal(found, counted(users, kind))


@quick
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 12))
def test_op19_the_pair_budget_counts_every_pair_of_positions_exactly(lengths, window):
    pairs = sum(q - p <= window for n in lengths for p, q in combinations(range(n), 2))
    assert num_position_pairs(np.array(lengths), window) == pairs


@quick
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    window=st.integers(1, 15),
    decay=st.sampled_from([1.0, 0.8]),
    damping=st.sampled_from([0.0, 0.5, 1.0]),
    direction=st.sampled_from(["symmetric", "forward"]),
)
def test_the_counted_share_is_that_of_a_double_loop_over_positions(
    lengths, window, decay, damping, direction
):
    kind = ItemGraphSettings(
        window=window, position_decay=decay, user_damping=damping, direction=direction
    )
    pairs = [(q - p, n**-damping) for n in lengths for p, q in combinations(range(n), 2)]
    near = sum(a * decay ** (d - 1) for d, a in pairs if d <= window)
    expected = near / sum(a for _, a in pairs) if pairs else 1.0
    expected /= 2 if direction == "forward" and pairs else 1
    assert counted_share(np.array(lengths), kind) == pytest.approx(expected)


def test_op19_a_history_100_times_as_long_has_at_most_window_pairs_per_action():
    assert num_position_pairs(np.array([20]), 10) == 145
    assert num_position_pairs(np.array([2000]), 10) == 19_945


@pytest.mark.parametrize("num_pairs", [1, 1_000, 2_000_000_000, 2**40, 2**61])
def test_the_heaviest_sum_of_all_pairs_fits_64_bits(num_pairs):
    assert num_pairs * 2 ** fraction_bits(num_pairs) < 2**63
    assert 0 <= fraction_bits(num_pairs) <= 31


def test_graphs_of_a_night_are_counted_with_one_precision():
    assert fraction_bits(0) == fraction_bits(2_000_000_000) == 31
