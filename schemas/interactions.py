"""Interactions: one row per valid user action of one day."""

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, required

INTERACTIONS = Contract(
    table="interactions",
    version=1,
    key=("user_id", "item_id", "event_time", "event_type"),
    stage="jobs.interactions",
    about="One valid, deduplicated action of day `ds`; of duplicates the greatest weight stays.",
    fields=[
        required("user_id", pa.string(), "raw id, as in events"),
        required("item_id", pa.string(), "raw id, as in events"),
        required("event_time", TIMESTAMP, "when, inside day `ds`, UTC"),
        required("event_type", pa.string(), "as in events; empty where events have none"),
        required("weight", pa.float64(), "as in events; 1 where events have none", at_least=0),
    ],
)
