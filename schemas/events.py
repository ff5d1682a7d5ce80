"""Events: the raw input. One row is one user action, as the shop's systems wrote it."""

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, optional, required

EVENTS = Contract(
    table="events",
    version=1,
    key=(),
    stage="your own export",
    about="One raw user action; Parquet, CSV or JSON lines under `ds=YYYY-MM-DD`.",
    fields=[
        required("user_id", pa.string(), "who acted; numbers are read as text, if they are exact"),
        required("item_id", pa.string(), "on what; numbers are read as text, if they are exact"),
        required("event_time", TIMESTAMP, "when; text in ISO 8601, UTC where it names no zone"),
        optional("event_type", pa.string(), "what was done, such as view or purchase"),
        optional("weight", pa.float64(), "≥ 0, absent is 1; kept, but no stage counts with it yet"),
    ],
)

REQUIRED_COLUMNS = tuple(f.name for f in EVENTS.fields if not f.nullable)
