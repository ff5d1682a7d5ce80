"""Scorecards: one row per metric of one model on one frozen holdout."""

import pyarrow as pa

from schemas.contract import Contract, required

SCORECARDS = Contract(
    table="scorecards",
    version=1,
    key=("model", "exclude_seen", "metric"),
    stage="trainer.evaluation",
    about=(
        "One metric of one model on tonight's holdout. `candidate` is tonight's checkpoint, "
        "`champion` the registered champion scored anew, the others are baselines."
    ),
    fields=[
        required(
            "model",
            pa.string(),
            "who was scored",
            one_of=("candidate", "champion", "popularity", "item_knn", "buy_again"),
        ),
        required("model_digest", pa.string(), "sha256 of its weights; empty for a baseline"),
        required("exclude_seen", pa.bool_(), "true: items a user already has do not count"),
        required(
            "metric",
            pa.string(),
            "such as ndcg@10, or ndcg@10/tail_items on a slice that has users: new_users, "
            "light_users, heavy_users, head_items or tail_items (`trainer/slices.py`)",
        ),
        required("value", pa.float64(), "mean over users, or the catalogue-wide value"),
        required(
            "num_users",
            pa.int32(),
            "users with something left to find, in the metric's slice if it has one",
            at_least=0,
        ),
        required("holdout_digest", pa.string(), "content digest of the sequences scored on"),
        required(
            "user_values",
            pa.list_(pa.float32()),
            "one per user of num_users, in sequences order; empty for catalogue-wide metrics",
        ),
    ],
)
