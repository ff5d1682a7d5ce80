import math

import numpy as np
import pytest
from scipy import sparse

from schemas.settings import EvaluationSettings
from trainer.slices import Slices, head_items, sliced_metrics, slices_of

RELEVANT = sparse.csr_matrix(
    (np.ones(5), [1, 2, 3, 4, 4], [0, 2, 4, 5]), shape=(3, 6), dtype=np.float64
)
"""User 0 seeks items 1 and 2, user 1 items 3 and 4, user 2 item 4."""
RANKS = np.array([0.0, 7.0, 30.0, 2.0, 0.0])


def test_head_items_are_the_fewest_with_that_share_of_actions():
    actions = np.array([0, 10, 50, 30, 10])
    assert head_items(actions, 0.8).nonzero()[0].tolist() == [2, 3]


def test_an_item_that_completes_the_share_is_head_and_its_equal_after_it_is_tail():
    actions = np.array([0, 10, 50, 30, 10])
    assert head_items(actions, 0.81).nonzero()[0].tolist() == [1, 2, 3]


def test_an_item_without_actions_is_tail():
    assert head_items(np.array([0, 3, 0]), 0.99).tolist() == [False, True, False]
    assert not head_items(np.zeros(3), 0.99).any()


def test_users_are_new_light_or_heavy_by_the_number_of_their_actions():
    counts = sparse.csr_matrix([[0, 1, 0], [0, 2, 0], [0, 1, 2], [0, 4, 0], [0, 0, 9]])
    settings = EvaluationSettings(light_history=2, heavy_history=4)
    slices = slices_of(counts, np.array([0, 1, 2, 3]), settings)
    assert {name: is_member.tolist() for name, is_member in slices.users.items()} == {
        "new_users": [True, False, False, False],
        "light_users": [False, True, True, False],
        "heavy_users": [False, False, False, True],
    }


def test_the_popularity_of_items_is_counted_over_all_users_scored_or_not():
    counts = sparse.csr_matrix([[0, 1, 0], [0, 0, 9]])
    slices = slices_of(counts, np.array([0]), EvaluationSettings())
    assert slices.items["head_items"].tolist() == [False, False, True]
    assert slices.items["tail_items"].tolist() == [True, True, False]


def test_without_slices_there_are_whole_metrics_only():
    metrics = sliced_metrics(RANKS, RELEVANT, Slices())
    assert len(metrics) == 9
    assert metrics["recall@5"].tolist() == [0.5, 0.5, 1]


def test_a_slice_of_users_has_their_values():
    slices = Slices({"some_users": np.array([True, False, True])})
    metrics = sliced_metrics(RANKS, RELEVANT, slices)
    assert metrics["recall@5/some_users"].tolist() == [0.5, 1]
    assert metrics["recall@5"].tolist() == [0.5, 0.5, 1]


def test_a_slice_of_items_narrows_what_is_sought_and_not_what_is_ranked():
    """Items 2 and 4: rank 7 of user 0 stays 7, and is all there is to find."""
    slices = Slices(items={"even_items": np.arange(6) % 2 == 0})
    metrics = sliced_metrics(RANKS, RELEVANT, slices)
    assert metrics["recall@5/even_items"].tolist() == [0, 1, 1]
    assert metrics["recall@10/even_items"].tolist() == [1, 1, 1]
    assert metrics["ndcg@10/even_items"] == pytest.approx([1 / math.log2(9), 0.5, 1])


def test_users_who_seek_nothing_of_a_slice_of_items_are_not_in_its_values():
    slices = Slices(items={"item_4": np.arange(6) == 4})
    metrics = sliced_metrics(RANKS, RELEVANT, slices)
    assert metrics["mrr@5/item_4"] == pytest.approx([1 / 3, 1])


def test_a_slice_that_nobody_is_in_has_no_metrics():
    slices = Slices({"no_users": np.zeros(3, dtype=bool)}, {"no_items": np.zeros(6, dtype=bool)})
    assert sliced_metrics(RANKS, RELEVANT, slices).keys() == (
        sliced_metrics(RANKS, RELEVANT, Slices()).keys()
    )
