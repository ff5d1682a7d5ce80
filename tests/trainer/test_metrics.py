import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import ndcg_score

from schemas.errors import DataError
from trainer.metrics import calibration_error, coverage, popularity_bias, user_metrics

DESCENDING = torch.tensor([[0.0, *range(30, 0, -1)]])
"""Item 1 scores best, item 30 worst: item i has rank i - 1."""


def relevant(*items, num_items=30):
    columns = np.array(items, dtype=np.int64)
    shape = (1, num_items + 1)
    return sparse.csr_matrix((np.ones(len(items)), (np.zeros_like(columns), columns)), shape=shape)


def test_one_item_found_in_third_place():
    metrics = user_metrics(DESCENDING, relevant(3))
    assert metrics["recall@5"] == [1]
    assert metrics["ndcg@5"] == [pytest.approx(1 / math.log2(4))]
    assert metrics["mrr@5"] == [pytest.approx(1 / 3)]


def test_an_item_in_sixth_place_is_found_at_ten_and_not_at_five():
    metrics = user_metrics(DESCENDING, relevant(6))
    assert (metrics["recall@5"], metrics["ndcg@5"], metrics["mrr@5"]) == (0, 0, 0)
    assert (metrics["recall@10"], metrics["mrr@10"]) == (1, pytest.approx(1 / 6))


def test_recall_is_divided_by_what_could_be_found():
    metrics = user_metrics(DESCENDING, relevant(1, 2, 3, 21, 22, 23, 24))
    assert metrics["recall@5"] == [3 / 5]
    assert metrics["recall@10"] == [3 / 7]


def test_a_perfect_ranking_has_ndcg_one():
    metrics = user_metrics(DESCENDING, relevant(*range(1, 13)))
    assert [metrics[f"ndcg@{k}"][0] for k in (5, 10, 20)] == pytest.approx([1, 1, 1])


def test_a_tie_across_the_cutoff_counts_by_its_middle_rank():
    scores = torch.zeros(1, 31)
    assert user_metrics(scores, relevant(7))["recall@10"] == [0]
    few = user_metrics(scores, relevant(7), relevant(*range(11, 31)))
    assert few["recall@5"] == [1]
    assert few["ndcg@5"] == [pytest.approx(1 / math.log2(4.5 + 2))]
    assert few["mrr@5"] == [pytest.approx(1 / 5.5)]


def test_a_user_with_nothing_to_find_is_an_error():
    with pytest.raises(DataError, match="nothing to find for user 0 of 1"):
        user_metrics(DESCENDING, relevant())


def oracle(row, wanted, out):
    """recall, ndcg and mrr at 10 of one user, item by item."""
    left = {item: score for item, score in enumerate(row) if item not in out}
    hits = []
    for item in wanted & left.keys():
        higher = sum(score > left[item] for score in left.values())
        rank = higher + (sum(score == left[item] for score in left.values()) - 1) / 2
        hits += [rank] if rank < 10 else []
    places = min(10, len(wanted))
    ideal = sum(1 / math.log2(rank + 2) for rank in range(places))
    gain = sum(1 / math.log2(rank + 2) for rank in hits)
    return len(hits) / places, gain / ideal, 1 / (min(hits) + 1) if hits else 0


@given(
    st.lists(st.integers(0, 4), min_size=31, max_size=31),
    st.sets(st.integers(1, 30), min_size=1),
    st.sets(st.integers(1, 30)),
)
def test_metrics_match_a_count_item_by_item(row, wanted, out):
    scores = torch.tensor([row], dtype=torch.float32)
    metrics = user_metrics(scores, relevant(*sorted(wanted)), relevant(*sorted(out)))
    found = [metrics[name][0] for name in ("recall@10", "ndcg@10", "mrr@10")]
    assert found == pytest.approx(oracle(row, wanted, {0, *out}))


def test_ndcg_without_ties_is_that_of_scikit_learn():
    generator = np.random.default_rng(3)
    scores = generator.permuted(np.tile(np.arange(51.0), (40, 1)), axis=1)
    wanted = generator.random((40, 50)) < 0.2
    wanted[:, 0] = True
    padded = sparse.csr_matrix(np.pad(wanted, ((0, 0), (1, 0))).astype(float))
    metrics = user_metrics(torch.from_numpy(scores), padded)
    for k in (5, 10, 20):
        expected = ndcg_score(wanted, scores[:, 1:], k=k)
        assert metrics[f"ndcg@{k}"].mean() == pytest.approx(expected)


def test_coverage_is_the_share_of_items_recommended_to_anyone():
    assert coverage(np.array([[1, 2], [2, 3], [1, 0]]), num_items=6) == 0.5


def test_recommending_the_most_popular_of_four_items_has_bias_seven_eighths():
    popularity = np.array([0, 40, 30, 20, 10])
    assert popularity_bias(np.array([[1], [1]]), popularity) == 0.875


def test_recommending_every_item_once_has_bias_one_half():
    popularity = np.array([0, 9, 9, 9, 1])
    assert popularity_bias(np.array([[1, 2], [3, 4]]), popularity) == 0.5


def test_confidence_that_comes_true_as_often_as_it_says_has_no_calibration_error():
    confidences = np.array([0.25] * 4 + [0.5] * 4)
    is_right = np.array([1, 0, 0, 0, 1, 1, 0, 0])
    assert calibration_error(confidences, is_right, num_bins=2) == 0


def test_calibration_error_is_the_mean_gap_over_bins():
    confidences = np.array([0.9, 0.1, 0.9, 0.1])
    is_right = np.array([0, 0, 1, 1])
    assert calibration_error(confidences, is_right, num_bins=2) == pytest.approx(0.4)
