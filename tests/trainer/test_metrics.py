import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import ndcg_score
from torchmetrics.functional.retrieval import (
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from schemas.errors import DataError
from trainer.metrics import (
    calibration_bins,
    calibration_error,
    coverage,
    gini,
    popularity_bias,
    popularity_lift,
    user_metrics,
)

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


@pytest.fixture(scope="module")
def ranked():
    """Scores of 40 users for 50 items without ties, what they seek, and our metrics of it."""
    generator = np.random.default_rng(3)
    scores = generator.permuted(np.tile(np.arange(51.0), (40, 1)), axis=1)
    wanted = generator.random((40, 50)) < 0.2
    wanted[:, 0] = True
    padded = sparse.csr_matrix(np.pad(wanted, ((0, 0), (1, 0))).astype(float))
    return scores[:, 1:], wanted, user_metrics(torch.from_numpy(scores), padded)


def test_ndcg_without_ties_is_that_of_scikit_learn(ranked):
    scores, wanted, metrics = ranked
    for k in (5, 10, 20):
        expected = ndcg_score(wanted, scores, k=k)
        assert metrics[f"ndcg@{k}"].mean() == pytest.approx(expected)


@pytest.mark.parametrize("k", [5, 10, 20])
@pytest.mark.parametrize(
    ("metric", "theirs"),
    [
        ("recall", retrieval_recall),
        ("ndcg", retrieval_normalized_dcg),
        ("mrr", retrieval_reciprocal_rank),
    ],
)
def test_every_users_metrics_without_ties_are_those_of_torchmetrics(ranked, metric, theirs, k):
    """Their recall is hits / relevant, ours hits / min(k, relevant)."""
    scores, wanted, metrics = ranked
    expected = np.array(
        [theirs(*map(torch.from_numpy, row), k) for row in zip(scores, wanted, strict=True)]
    )
    if metric == "recall":
        expected *= wanted.sum(axis=1) / np.minimum(k, wanted.sum(axis=1))
    np.testing.assert_allclose(metrics[f"{metric}@{k}"], expected, rtol=0, atol=1e-6)


def test_coverage_is_the_share_of_items_recommended_to_anyone():
    assert coverage(np.array([[1, 2], [2, 3], [1, 0]]), num_items=6) == 0.5


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([[1, 2], [3, 4]], 0.0),
        ([[1, 2], [1, 3]], 0.5),
        ([[1, 0], [1, 0]], 1.0),
        ([[0, 0], [0, 0]], 0.0),
    ],
)
def test_gini_says_how_unevenly_four_items_are_recommended(lists, expected):
    assert gini(np.array(lists), num_items=4) == expected


POPULARITY = np.array([0, 4, 2, 2])


def owned(*rows):
    """Each user has these items, every one of them five times."""
    pairs = [(user, item) for user, items in enumerate(rows) for item in items]
    users, items = zip(*pairs, strict=True)
    return sparse.csr_matrix((np.full(len(pairs), 5.0), (users, items)), shape=(len(rows), 4))


def test_popularity_lift_compares_lists_with_histories_user_by_user():
    """Histories: mean of 2 and 4 is 3. Lists: mean of 3 and 2 is 2.5, a sixth less."""
    lift = popularity_lift(np.array([[1, 2], [3, 0]]), owned([2, 3], [1]), POPULARITY)
    assert lift == pytest.approx(-1 / 6)


def test_a_user_without_a_list_does_not_count_in_popularity_lift():
    lift = popularity_lift(np.array([[1, 0], [0, 0]]), owned([2, 3], [1]), POPULARITY)
    assert lift == pytest.approx(4 / 3 - 1)


def test_recommending_what_users_have_has_no_popularity_lift():
    assert popularity_lift(np.array([[2, 3], [1, 0]]), owned([2, 3], [1]), POPULARITY) == 0


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


def test_bins_are_of_equal_size_and_say_how_sure_and_how_right():
    confidences = np.array([0.9, 0.2, 0.7, 0.1, 0.3])
    bins = calibration_bins(confidences, np.array([1, 0, 1, 0, 1]), num_bins=2)
    assert bins.confidences == pytest.approx([0.2, 0.8])
    assert bins.hit_rates == pytest.approx([1 / 3, 1])
    assert bins.counts.tolist() == [3, 2]
    assert bins.error == pytest.approx((3 * (1 / 3 - 0.2) + 2 * 0.2) / 5)


def test_there_are_no_more_bins_than_users():
    assert calibration_bins(np.array([0.5, 0.25]), np.array([1, 0])).counts.tolist() == [1, 1]
