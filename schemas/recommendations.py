"""Recommendations: one row per ranked item for one user, from the champion."""

import pyarrow as pa

from schemas.contract import Contract, required

RECOMMENDATIONS = Contract(
    table="recommendations",
    version=1,
    key=("user_id", "rank"),
    stage="trainer.recommendations",
    about="One ranked item for one user, from the champion and the user's sequence.",
    fields=[
        required("user_id", pa.string(), "raw id, as in events"),
        required("rank", pa.int32(), "1 is best", at_least=1),
        required("item_id", pa.string(), "raw id, as in events"),
        required("score", pa.float32(), "the model's logit; comparable within a user only"),
        required("model_version", pa.int32(), "registered version that ranked it", at_least=1),
    ],
)
