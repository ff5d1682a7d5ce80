"""Soft targets: one row per seed and the label distribution that reached items from it."""

import pyarrow as pa

from schemas.contract import Contract, required

SOFT_TARGETS = Contract(
    table="soft_targets",
    version=1,
    key=("kind", "seed_id"),
    stage="jobs.soft_targets",
    about="One seed, an item or a user's training history, and what its label mass reached.",
    fields=[
        required("kind", pa.string(), "what the seed is", one_of=("item", "user")),
        required("seed_id", pa.string(), "raw item_id or user_id"),
        required("item_indices", pa.list_(pa.int32()), "items reached, ascending", at_least=1),
        required("masses", pa.list_(pa.float32()), "mass on each", at_least=0, at_most=1.00001),
        required(
            "dropped_mass",
            pa.float32(),
            "mass cut by top_k; with `masses` it sums to 1",
            at_least=-1e-5,
            at_most=1.00001,
        ),
    ],
)
