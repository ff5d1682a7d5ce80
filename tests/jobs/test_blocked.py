from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.blocked import State, cut, multiply, propagate_blocked, sum_products
from jobs.propagation import mix, propagate, recency_shares, transition
from schemas.settings import SoftTargetsSettings

NUM_ITEMS = 7
SEEDS = np.arange(1, NUM_ITEMS + 1, dtype=np.int32)
quick = settings(derandomize=True, deadline=None, max_examples=30)
weights = st.lists(
    st.sampled_from([0.0, 0.0, 1.0, 2.0, 5.5]), min_size=NUM_ITEMS**2, max_size=NUM_ITEMS**2
).map(lambda entries: np.reshape(entries, (NUM_ITEMS, NUM_ITEMS)) * (1 - np.eye(NUM_ITEMS)))


@dataclass(frozen=True)
class InMemory:
    """What the blocked plan asks of shared rows."""

    rows: tuple

    def open(self):
        return self.rows


class Collection:
    """Spark's collections of pairs, on one list, so that many graphs are tried in a second.

    The plan on Spark itself is run by tests/jobs/test_soft_targets.py.
    """

    def __init__(self, entries):
        self.entries = list(entries)

    def flatMap(self, function):
        return Collection(e for entry in self.entries for e in function(entry))

    def map(self, function):
        return Collection(map(function, self.entries))

    def mapPartitions(self, function):
        return Collection(function(self.entries))

    def mapValues(self, function):
        return Collection((key, function(value)) for key, value in self.entries)

    def partitionBy(self, _num, partitionFunc):
        return Collection(sorted(self.entries, key=lambda entry: partitionFunc(entry[0])))

    def groupByKey(self, _num, _partition):
        keys = sorted({key for key, _ in self.entries})
        return Collection((k, [v for key, v in self.entries if key == k]) for k in keys)

    def union(self, other):
        return Collection([*other.entries, *self.entries])

    def values(self):
        return Collection(value for _, value in self.entries)

    def collect(self):
        return self.entries

    def persist(self, _level):
        return self

    def checkpoint(self):
        return None

    def unpersist(self):
        return None

    def getCheckpointFile(self):
        return None


def graph_of(dense):
    item, neighbour = np.nonzero(dense)
    columns = [(item + 1).astype(np.int32), (neighbour + 1).astype(np.int32)]
    return transition(0, NUM_ITEMS + 1, *columns, dense[item, neighbour])


def bounds_of(data):
    inner = data.draw(st.lists(st.integers(1, NUM_ITEMS), max_size=3, unique=True).map(sorted))
    return np.array([0, *inner, NUM_ITEMS + 1])


def assert_equal(found, expected):
    for part, other in zip(found.as_rows(), expected.as_rows(), strict=True):
        np.testing.assert_array_equal(part, other)


@quick
@given(weights, st.sampled_from([0.3, 0.5, 0.9]), st.integers(1, NUM_ITEMS), st.data())
def test_blocks_propagate_to_the_same_rows_to_the_bit(dense, alpha, top_k, data):
    kind = SoftTargetsSettings(alpha=alpha, top_k=top_k, max_iterations=200)
    cut_at = data.draw(st.integers(1, NUM_ITEMS - 1))
    blocks = [SEEDS[:cut_at], SEEDS[cut_at:]]
    states = Collection((n, State.of_seeds(seeds, kind)) for n, seeds in enumerate(blocks))
    graph = InMemory(graph_of(dense))
    after, trace = propagate_blocked(states, 2, graph, bounds_of(data), kind)
    _, whole_trace = propagate(SEEDS, graph.open(), kind)
    for (_, state), seeds in zip(after.entries, blocks, strict=True):
        expected, _ = propagate(seeds, graph.open(), kind)
        assert_equal(state.block, expected)
    np.testing.assert_array_equal(trace.residual, whole_trace.residual)
    np.testing.assert_array_equal(trace.active, whole_trace.active)
    np.testing.assert_array_equal(trace.held, whole_trace.held)
    np.testing.assert_allclose(trace.dropped, whole_trace.dropped, atol=1e-12)


def test_rows_that_do_not_converge_are_counted():
    kind = SoftTargetsSettings(alpha=0.9, max_iterations=5)
    ring = np.roll(np.eye(NUM_ITEMS), 1, axis=1)
    states, bounds = Collection([(0, State.of_seeds(SEEDS, kind))]), np.array([0, NUM_ITEMS + 1])
    _, trace = propagate_blocked(states, 1, InMemory(graph_of(ring)), bounds, kind)
    assert (trace.num_unconverged, len(trace.residual)) == (NUM_ITEMS, 5)


@quick
@given(
    weights,
    st.lists(st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(1, NUM_ITEMS),
    st.data(),
)
def test_users_are_mixed_to_the_same_rows_to_the_bit(dense, users, top_k, data):
    kind, bounds = SoftTargetsSettings(top_k=top_k), bounds_of(data)
    item_rows = graph_of(dense)
    lengths = np.array([len(user) for user in users])
    histories = np.array([item for user in users for item in user], np.int32)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    pieces = cut(ends, histories, recency_shares(lengths, kind.user_recency), bounds)
    mass = Collection((block, (0, piece)) for block, piece in pieces)
    products = multiply(mass, InMemory(item_rows), bounds).values().collect()
    found = sum_products(products, len(users), top_k, NUM_ITEMS + 1)
    assert_equal(found, mix(histories, lengths, item_rows, kind))


@pytest.mark.parametrize("bounds", [[0, 8], [0, 3, 8], [0, 1, 2, 8]])
def test_pieces_of_mass_are_all_the_mass_each_in_its_block(bounds):
    ends, items = np.array([0, 3, 3, 5]), np.array([5, 1, 2, 7, 2], np.int32)
    dense = np.zeros((3, 8))
    for block, (piece_ends, columns, mass) in cut(ends, items, np.ones(5), np.array(bounds)):
        assert ((columns >= bounds[block]) & (columns < bounds[block + 1])).all()
        dense[np.repeat(range(3), np.diff(piece_ends)), columns] += mass
    expected = np.zeros((3, 8))
    expected[[0, 0, 0, 2, 2], items] = 1
    np.testing.assert_array_equal(dense, expected)
