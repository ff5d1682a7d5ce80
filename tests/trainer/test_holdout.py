import numpy as np
import pyarrow as pa
import pytest
import torch

from trainer.holdout import holdout_of, score_holdout
from trainer.slices import Slices

SEQUENCES = pa.table(
    {
        "item_indices": pa.array([[1, 2, 2, 3, 3], [4, 4], [1], [5, 2, 1]], pa.list_(pa.int32())),
        "num_holdout": pa.array([3, 1, 0, 2], pa.int32()),
    }
)
"""Before | holdout: 1 2 | 2 3 3, then 4 | 4, then 1 |, then 5 | 2 1."""


@pytest.fixture
def everything():
    return holdout_of(SEQUENCES, 5, exclude_seen=False)


@pytest.fixture
def discovery():
    return holdout_of(SEQUENCES, 5, exclude_seen=True)


def relevant(holdout):
    return [row.indices.tolist() for row in holdout.relevant]


def test_users_without_a_holdout_are_not_scored(everything):
    assert everything.users.tolist() == [0, 1, 3]


def test_distinct_holdout_items_are_relevant(everything):
    assert relevant(everything) == [[2, 3], [4], [1, 2]]


def test_in_discovery_items_seen_before_are_not_relevant(discovery):
    assert discovery.users.tolist() == [0, 3]
    assert relevant(discovery) == [[3], [1, 2]]


def test_the_next_item_is_the_first_that_is_relevant(everything, discovery):
    assert everything.next_items.tolist() == [2, 4, 2]
    assert discovery.next_items.tolist() == [3, 2]


def test_op10_nothing_of_the_holdout_is_in_what_models_see(everything):
    other = SEQUENCES.set_column(
        0, "item_indices", pa.array([[1, 2, 5, 5, 5], [4, 1], [1], [5, 4, 3]], pa.list_(pa.int32()))
    )
    changed = holdout_of(other, 5, exclude_seen=False)
    np.testing.assert_array_equal(changed.counts.toarray(), everything.counts.toarray())
    for before, after in zip(
        changed.histories.positions(), everything.histories.positions(), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def scores_of(*rows):
    table = torch.tensor(rows, dtype=torch.float32)
    return lambda users: table[torch.from_numpy(users)]


SCORES = scores_of([0, 9, 8, 7, 6, 5], [0, 9, 8, 7, 6, 5], [0] * 6, [0, 1, 5, 2, 3, 4])


def test_each_user_is_scored_on_its_own_relevant_items(everything):
    card = score_holdout(everything, SCORES, batch_size=2)
    assert card.user_values["mrr@5"].tolist() == [1 / 2, 1 / 4, 1]


def test_slices_are_of_the_scored_users_and_their_relevant_items(everything):
    """Relevant are 2 and 3, then 4, then 1 and 2, at the ranks 1 2, 3, 4 0 of SCORES."""
    slices = Slices(
        {"last_users": np.array([False, True, True])}, {"even_items": np.arange(6) % 2 == 0}
    )
    for batch_size in (1, 2, 3):
        card = score_holdout(everything, SCORES, batch_size, slices)
        assert card.user_values["mrr@5/last_users"].tolist() == [1 / 4, 1]
        assert card.user_values["mrr@5/even_items"].tolist() == [1 / 2, 1 / 4, 1]
        assert card.user_values["recall@5/even_items"].tolist() == [1, 1, 1]


def test_lists_are_measured_against_the_histories_of_scored_users(discovery):
    """Lists are 3 4 5 and 1 2 3 4. Items 1 to 5 had 2, 1, 0, 1 and 1 users before the holdout."""
    values = score_holdout(discovery, SCORES, batch_size=2).values
    assert values["gini@10"] == pytest.approx((-4 - 2 + 0 + 2 * 2 + 4 * 2) / (4 * 7))
    lists, histories = (2 / 3 + 4 / 4) / 2, (3 / 2 + 1) / 2
    assert values["popularity_lift@10"] == pytest.approx(lists / histories - 1)


def test_in_discovery_seen_items_take_no_place(discovery):
    card = score_holdout(discovery, SCORES, batch_size=2)
    assert card.user_values["mrr@5"].tolist() == [1, 1]


def test_coverage_counts_what_is_recommended_to_scored_users(discovery):
    assert score_holdout(discovery, SCORES, batch_size=2).values["coverage@10"] == 1


def test_a_user_whom_nothing_is_left_for_has_no_confidence(discovery):
    """As where a champion knows no item of a grown catalogue that the user does not have yet."""
    nothing = scores_of(*[[-np.inf] * 6] * 4)
    card = score_holdout(discovery, nothing, batch_size=2, is_probabilistic=True)
    assert card.values["calibration_error"] == 0
    assert card.user_values["mrr@5"].tolist() == [0, 0]


def test_confidence_is_measured_for_probabilities_only(discovery):
    card = score_holdout(discovery, SCORES, batch_size=2, is_probabilistic=True)
    certain = 1 / (1 + np.exp(-1) + np.exp(-2))
    among_five = 1 / sum(np.exp(-n) for n in (0, 2, 3, 4))
    expected = (1 - certain + 1 - among_five) / 2
    assert card.values["calibration_error"] == pytest.approx(expected, abs=1e-6)
    assert "calibration_error" not in score_holdout(discovery, SCORES, batch_size=2).values
