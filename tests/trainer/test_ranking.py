import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import trainer.ranking
from trainer.ranking import exclude, ranks, top_k, users_at_once

MINUS_INF = float("-inf")


def of_rows(*rows, num_columns=6):
    """A matrix with ones in the given columns of each row."""
    pairs = [(row, column) for row, columns in enumerate(rows) for column in columns]
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    shape = (len(rows), num_columns)
    return sparse.csr_matrix((np.ones(len(pairs)), (users, items)), shape=shape)


@pytest.mark.parametrize(
    ("num_items", "users"), [(43_000, 256), (10**6, 67), (2**26, 1), (2**30, 1)]
)
def test_fewer_users_are_scored_at_once_where_the_catalogue_is_large(num_items, users):
    assert users_at_once(256, num_items) == users


def test_a_rank_counts_the_items_that_score_higher():
    scores = torch.tensor([[9.0, 0.1, 0.5, 0.3, 0.4, 0.2]])
    np.testing.assert_array_equal(ranks(exclude(scores), of_rows([2, 5, 3])), [0, 2, 3])


def test_ties_count_half():
    scores = torch.tensor([[9.0, 1.0, 0.5, 0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(ranks(exclude(scores), of_rows([1, 4])), [0, 2.5])


def test_excluded_items_neither_score_higher_nor_tie():
    scores = torch.tensor([[9.0, 1.0, 0.5, 0.5, 0.5, 0.2]])
    excluded = exclude(scores, of_rows([1, 2]))
    np.testing.assert_array_equal(ranks(excluded, of_rows([3, 5])), [0.5, 2])


def test_an_item_at_minus_infinity_is_never_found():
    scores = torch.tensor([[MINUS_INF, 1.0, MINUS_INF, MINUS_INF, 0.5, 0.2]])
    np.testing.assert_array_equal(ranks(scores, of_rows([2, 5])), [np.inf, 2])


def test_users_with_and_without_relevant_items_share_a_batch():
    scores = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 5, 4, 3, 2, 1], [0, 1, 1, 1, 1, 1]]).float()
    relevant = of_rows([1, 5], [], [3])
    np.testing.assert_array_equal(ranks(exclude(scores), relevant), [4, 0, 2])


@st.composite
def batches(draw):
    """Few distinct scores, so that most items tie; some items excluded."""
    num_users, num_items = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    rows = st.lists(st.integers(0, 3), min_size=num_items + 1, max_size=num_items + 1)
    scores = draw(st.lists(rows, min_size=num_users, max_size=num_users))
    subsets = st.lists(st.sets(st.integers(1, num_items)), min_size=num_users, max_size=num_users)
    relevant, excluded = draw(subsets), draw(subsets)
    matrices = (of_rows(*map(sorted, s), num_columns=num_items + 1) for s in (relevant, excluded))
    return torch.tensor(scores, dtype=torch.float32), *matrices


def ranks_with(most_counted, *batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.ranking, "MOST_COUNTED", most_counted)
        return ranks(*batch)


@pytest.mark.parametrize("most_counted", [0, 1, 64])
@given(batch=batches())
def test_ranks_match_a_count_item_by_item(most_counted, batch):
    scores, relevant, excluded = batch
    expected = []
    for user, row in enumerate(scores.tolist()):
        out = {0, *excluded[user].indices.tolist()}
        left = [score for item, score in enumerate(row) if item not in out]
        for item in relevant[user].indices.tolist():
            higher = sum(score > row[item] for score in left)
            ties = sum(score == row[item] for score in left) - 1
            expected.append(np.inf if item in out else higher + ties / 2)
    found = ranks_with(most_counted, exclude(scores, excluded), relevant)
    np.testing.assert_array_equal(found, expected)


@given(batches(), st.integers(1, 14))
def test_top_lists_match_a_sort_by_score_then_item_index(batch, k):
    scores, _, excluded = batch
    items, found = top_k(exclude(scores, excluded), k)
    for user, row in enumerate(scores.tolist()):
        out = {0, *excluded[user].indices.tolist()}
        best = sorted((-score, item) for item, score in enumerate(row) if item not in out)[:k]
        missing = k - len(best)
        assert items[user].tolist() == [item for _, item in best] + [0] * missing
        assert found[user].tolist() == [-score for score, _ in best] + [MINUS_INF] * missing


def test_scores_handed_to_exclude_stay_as_they_are():
    scores = torch.zeros(1, 6)
    exclude(scores, of_rows([1]))
    assert scores.tolist() == [[0.0] * 6]
