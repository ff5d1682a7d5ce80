import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.propagation import Trace, join_traces, mix, propagate, transition
from schemas.settings import SoftTargetsSettings

NUM_ITEMS = 6
SEEDS = np.arange(1, NUM_ITEMS + 1, dtype=np.int32)
quick = settings(derandomize=True, deadline=None, max_examples=30)

weight = st.sampled_from([0.0, 0.0, 1.0, 2.0, 5.5])
graphs = st.lists(
    st.lists(weight, min_size=NUM_ITEMS, max_size=NUM_ITEMS),
    min_size=NUM_ITEMS,
    max_size=NUM_ITEMS,
).map(lambda rows: np.array(rows) * (1 - np.eye(NUM_ITEMS)))
alphas = st.sampled_from([0.0, 0.3, 0.5, 0.9])


@st.composite
def dyadic_graphs(draw):
    """Graphs on which float arithmetic is exact: 1, 2 or 4 equal edges leave every item."""
    rows = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for item in range(NUM_ITEMS):
        others = draw(st.permutations([n for n in range(NUM_ITEMS) if n != item]))
        rows[item, others[: draw(st.sampled_from([1, 2, 4]))]] = 1.0
    return rows


def stochastic(weights):
    """S over items 1..V, as a dense [V, V]."""
    rows = weights + np.diag(weights.sum(axis=1) == 0)
    return rows / rows.sum(axis=1, keepdims=True)


def graph_of(weights):
    item, neighbour = np.nonzero(weights)
    columns = [(item + 1).astype(np.int32), (neighbour + 1).astype(np.int32)]
    return transition(0, len(weights) + 1, *columns, weights[item, neighbour])


def dense(rows):
    """Rows as an array [N, V + 1]."""
    ends, columns, masses = rows
    found = np.zeros((len(ends) - 1, NUM_ITEMS + 1))
    found[np.repeat(np.arange(len(found)), np.diff(ends)), columns] = masses
    return found


def spread(weights, seeds=SEEDS, **changes):
    """Y over items 1..V, dense, and the trace; to the last digit unless changed."""
    exact = {"tolerance": 1e-12, "max_iterations": 2000, "top_k": NUM_ITEMS}
    block, trace = propagate(seeds, graph_of(weights), SoftTargetsSettings(**(exact | changes)))
    rows = dense(block.as_rows())
    assert not rows[:, 0].any()
    np.testing.assert_allclose(block.dropped(), np.maximum(1 - rows.sum(axis=1), 0), atol=1e-12)
    return rows[:, 1:], trace


def fixpoint(weights, alpha):
    identity = np.eye(len(weights))
    return (1 - alpha) * np.linalg.inv(identity - alpha * stochastic(weights))


def spread_slowly(weights, seed, kind):
    """One row by the formula, entry by entry, with pruning and holding."""
    graph, mass, change = stochastic(weights), np.eye(NUM_ITEMS)[seed], 2.0
    columns, was_pruned = None, False
    for _ in range(kind.max_iterations):
        moved = [kind.alpha * sum(mass * graph[:, j]) for j in range(NUM_ITEMS)]
        moved[seed] += 1 - kind.alpha
        order = sorted(range(NUM_ITEMS), key=lambda j: (-moved[j], j))
        was_pruned |= columns is None and sum(m > 0 for m in moved) > kind.top_k
        strongest = order[: kind.top_k]
        if seed not in strongest:
            strongest = [*strongest[:-1], seed]
        kept = strongest if columns is None else columns
        after = np.array([moved[j] if j in kept else 0.0 for j in range(NUM_ITEMS)])
        last, change, mass = change, sum(abs(after - mass)), after
        if change < kind.tolerance:
            break
        if columns is None and was_pruned and change > kind.alpha * last * (1 + 1e-6):
            columns = [j for j in range(NUM_ITEMS) if mass[j] > 0]
    return mass


@quick
@given(graphs, alphas)
def test_where_nothing_is_cut_the_rows_are_the_fixpoint(weights, alpha):
    rows, trace = spread(weights, alpha=alpha)
    np.testing.assert_allclose(rows, fixpoint(weights, alpha), atol=1e-11)
    assert trace.num_unconverged == 0


@quick
@given(dyadic_graphs(), st.integers(1, NUM_ITEMS), st.sampled_from([0.25, 0.5, 0.75, 0.9375]))
def test_pruned_rows_equal_those_of_a_plain_loop(weights, top_k, alpha):
    kind = SoftTargetsSettings(alpha=alpha, top_k=top_k, tolerance=1e-3, max_iterations=60)
    block, _ = propagate(SEEDS, graph_of(weights), kind)
    expected = [spread_slowly(weights, seed, kind) for seed in range(NUM_ITEMS)]
    np.testing.assert_allclose(dense(block.as_rows())[:, 1:], expected, atol=1e-12)


@quick
@given(graphs, alphas, st.integers(1, NUM_ITEMS))
def test_rows_are_non_negative_and_lose_only_what_is_recorded_as_dropped(weights, alpha, top_k):
    rows, trace = spread(weights, alpha=alpha, top_k=top_k, tolerance=1e-6)
    assert (rows >= 0).all()
    assert ((rows > 0).sum(axis=1) <= top_k).all()
    assert (rows.sum(axis=1) <= 1 + 1e-12).all()
    assert trace.dropped[-1] == pytest.approx(NUM_ITEMS - rows.sum(), abs=1e-9)


@quick
@given(graphs, alphas)
def test_uncut_rows_sum_to_1(weights, alpha):
    rows, _ = spread(weights, alpha=alpha)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-12)


@quick
@given(graphs, st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.integers(1, NUM_ITEMS))
def test_a_seed_keeps_at_least_1_minus_alpha_of_its_mass(weights, alpha, top_k):
    rows, _ = spread(weights, alpha=alpha, top_k=top_k, tolerance=1e-6)
    assert (np.diag(rows) >= 1 - alpha - 1e-12).all()


@quick
@given(graphs, st.integers(1, NUM_ITEMS))
def test_alpha_0_gives_the_identity(weights, top_k):
    rows, trace = spread(weights, alpha=0.0, top_k=top_k)
    np.testing.assert_array_equal(rows, np.eye(NUM_ITEMS))
    assert len(trace.residual) == 1


@quick
@given(graphs, alphas)
def test_an_isolated_item_keeps_all_its_mass(weights, alpha):
    weights[2] = 0
    rows, _ = spread(weights, alpha=alpha)
    np.testing.assert_allclose(rows[2], np.eye(NUM_ITEMS)[2], atol=1e-12)


@quick
@given(graphs, alphas, st.permutations(range(NUM_ITEMS)))
def test_relabelling_items_permutes_the_result(weights, alpha, order):
    rows, _ = spread(weights, alpha=alpha)
    relabelled, _ = spread(weights[np.ix_(order, order)], alpha=alpha)
    np.testing.assert_allclose(relabelled, rows[np.ix_(order, order)], atol=1e-11)


@quick
@given(graphs, alphas, st.integers(1, NUM_ITEMS), st.permutations(list(SEEDS)), st.data())
def test_op20_a_row_is_the_same_to_the_bit_in_any_block(weights, alpha, top_k, order, data):
    changes = {"alpha": alpha, "top_k": top_k, "tolerance": 1e-4, "max_iterations": 200}
    together, trace = spread(weights, **changes)
    cut = data.draw(st.integers(1, NUM_ITEMS - 1))
    blocks = [np.array(order[:cut], np.int32), np.array(order[cut:], np.int32)]
    apart = [spread(weights, seeds=block, **changes) for block in blocks]
    rows = np.vstack([rows for rows, _ in apart])
    np.testing.assert_array_equal(rows, together[np.array(order) - 1])
    joined = join_traces([t for _, t in apart])
    np.testing.assert_array_equal(joined.residual, trace.residual)
    np.testing.assert_array_equal(joined.active, trace.active)
    np.testing.assert_allclose(joined.dropped, trace.dropped, atol=1e-12)


@quick
@given(graphs, st.sampled_from([0.3, 0.5, 0.9]))
def test_op20_residuals_fall_by_alpha_at_least(weights, alpha):
    _, trace = spread(weights, alpha=alpha, tolerance=1e-8)
    assert (trace.residual[1:] <= alpha * trace.residual[:-1] + 1e-12).all()
    assert trace.residual[-1] < 1e-8 <= trace.residual[:-1].min(initial=1)


def test_of_equally_reached_items_the_smaller_index_is_kept():
    weights = np.zeros((NUM_ITEMS, NUM_ITEMS))
    weights[0, [5, 1, 4, 2]] = 1.0
    rows, _ = spread(weights, alpha=0.5, top_k=3)
    assert np.flatnonzero(rows[0]).tolist() == [0, 1, 2]


def test_rows_that_do_not_converge_are_counted():
    ring = np.roll(np.eye(NUM_ITEMS), 1, axis=1)
    _, trace = spread(ring, alpha=0.9, tolerance=1e-3, max_iterations=5)
    assert trace.num_unconverged == NUM_ITEMS
    assert trace.residual.tolist() == pytest.approx([2 * 0.9**t for t in range(1, 6)])


TAKING_TURNS = np.array(
    [
        [0, 0, 0, 2, 0, 0],
        [0, 0, 2, 0, 0, 2],
        [3, 3, 0, 2, 3, 0],
        [2, 3, 3, 0, 0, 1],
        [0, 0, 3, 0, 0, 3],
        [0, 2, 3, 0, 0, 0],
    ],
    float,
)
"""Pruned to 2 or 3 entries, two of its rows would never settle on their columns."""


@pytest.mark.parametrize("top_k", [2, 3])
@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_columns_of_nearly_equal_mass_cannot_take_turns_for_ever(alpha, top_k):
    limit = int(np.ceil(2 * np.log(1e-4 / 2) / np.log(alpha)))
    _, trace = spread(TAKING_TURNS, alpha=alpha, top_k=top_k, tolerance=1e-4, max_iterations=limit)
    assert trace.num_unconverged == 0
    assert trace.held.max() >= 2


@quick
@given(dyadic_graphs(), st.integers(1, 4))
def test_pruning_at_most_doubles_the_iterations(weights, top_k):
    limit = 2 * int(np.ceil(np.log2(2 / 1e-4)))
    _, trace = spread(weights, top_k=top_k, tolerance=1e-4, max_iterations=limit)
    assert trace.num_unconverged == 0


def histories_of(users):
    return np.array([i for user in users for i in user], np.int32), np.array([*map(len, users)])


@quick
@given(
    graphs,
    st.lists(st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=7), min_size=1, max_size=4),
    st.sampled_from([1.0, 0.95, 0.5]),
)
def test_user_rows_are_the_recency_weighted_mix_of_item_rows(weights, users, recency):
    block, _ = propagate(
        np.arange(NUM_ITEMS + 1, dtype=np.int32), graph_of(weights), SoftTargetsSettings()
    )
    item_rows = dense(block.as_rows())
    kind = SoftTargetsSettings(user_recency=recency, top_k=NUM_ITEMS)
    found = dense(mix(*histories_of(users), block.as_rows(), kind).as_rows())
    for row, user in zip(found, users, strict=True):
        ages = [len(user) - 1 - p for p in range(len(user))]
        total = sum(recency**age for age in ages)
        shares = [recency**age / total for age in ages]
        mixed = sum(s * item_rows[i] for s, i in zip(shares, user, strict=True))
        np.testing.assert_allclose(row, mixed, atol=1e-12)


def test_user_rows_keep_their_top_k():
    item_rows = (np.arange(8).clip(max=7), np.arange(7, dtype=np.int32), np.ones(7))
    kind = SoftTargetsSettings(user_recency=0.5, top_k=2)
    found = dense(mix(*histories_of([[1, 2, 3], [3, 1]]), item_rows, kind).as_rows())
    np.testing.assert_allclose(found[:, :4], [[0, 0, 2 / 7, 4 / 7], [0, 2 / 3, 0, 1 / 3]])


def test_a_row_of_the_graph_sums_to_1_and_an_edge_of_weight_0_leads_nowhere():
    item, neighbour = np.array([1, 1, 2], np.int32), np.array([2, 3, 1], np.int32)
    graph = transition(0, 4, item, neighbour, np.array([3.0, 1.0, 0.0]))
    assert dense(graph)[1:, 1:4].tolist() == [[0, 0.75, 0.25], [0, 1, 0], [0, 0, 1]]


def test_a_later_part_of_the_graph_has_the_same_rows():
    item, neighbour = np.array([2, 2, 4], np.int32), np.array([1, 4, 2], np.int32)
    weight = np.array([1.0, 1.0, 5.0])
    whole = dense(transition(0, 6, item, neighbour, weight))
    np.testing.assert_array_equal(dense(transition(2, 6, item, neighbour, weight)), whole[2:])


def test_a_block_that_finished_early_keeps_what_it_dropped():
    def trace(residual, active, dropped):
        held = np.zeros(len(active), int)
        return Trace(np.array(residual), np.array(active), held, np.array(dropped), 0)

    joined = join_traces([trace([0.5, 0.1], [4, 2], [0.1, 0.3]), trace([0.2], [3], [0.2])])
    assert joined.residual.tolist() == [0.5, 0.1]
    assert joined.active.tolist() == [7, 2]
    assert joined.dropped.tolist() == pytest.approx([0.3, 0.5])
