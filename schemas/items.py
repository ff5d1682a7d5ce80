"""Items: one row per catalogue item, its dense index and its support."""

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, required

ITEMS = Contract(
    table="items",
    version=1,
    key=("item_index",),
    stage="jobs.items",
    about=(
        "One catalogue item. Indices are dense from 1 and append-only: a night keeps yesterday's "
        "and adds the items that newly reached the minimum support, on training data only."
    ),
    fields=[
        required("item_index", pa.int32(), "dense index; 0 is padding", at_least=1),
        required("item_id", pa.string(), "raw id, as in events"),
        required("support", pa.int64(), "training interactions in tonight's window", at_least=0),
        required("first_seen", TIMESTAMP, "first training interaction ever seen by a night"),
        required("last_seen", TIMESTAMP, "last training interaction seen by a night"),
    ],
)
