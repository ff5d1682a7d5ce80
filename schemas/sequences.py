"""Sequences: one row per user, the history split into train, validation and holdout."""

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, required

SEQUENCES = Contract(
    table="sequences",
    version=1,
    key=("user_id",),
    stage="jobs.sequences",
    about=(
        "One user. Positions [0, num_train) train, the next `num_validation` validate, the last "
        "`num_holdout` are held out: nothing after `num_train` may reach graph or soft targets."
    ),
    fields=[
        required("user_id", pa.string(), "raw id, as in events"),
        required("item_indices", pa.list_(pa.int32()), "oldest first, never padded", at_least=1),
        required("event_times", pa.list_(TIMESTAMP), "of the same actions, never decreasing"),
        required("num_train", pa.int32(), "leading positions for training", at_least=1),
        required("num_validation", pa.int32(), "positions after those", at_least=0),
        required("num_holdout", pa.int32(), "positions after those, to the end", at_least=0),
    ],
)
