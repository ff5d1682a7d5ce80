"""Quarantine: one row per rejected raw row, with its reason and source file."""

import pyarrow as pa

from schemas.contract import Contract, optional, required

REASONS = (
    "malformed_row",
    "null_user",
    "null_item",
    "unparsable_time",
    "outside_day",
    "bad_weight",
)
"""Why a row is rejected; where several apply, the first of this order is recorded."""

QUARANTINE = Contract(
    table="quarantine",
    version=1,
    key=(),
    stage="jobs.interactions",
    may_be_empty=True,
    about="One rejected raw row, its values as text, with the reason and the file it came from. "
    "Where a day's delivery was refused for too many of them, those of that delivery, beside the "
    "interactions of the one before.",
    fields=[
        required("reason", pa.string(), "why it was rejected", one_of=REASONS),
        required("source_file", pa.string(), "file name below the day's events folder"),
        optional("user_id", pa.string(), "as found"),
        optional("item_id", pa.string(), "as found"),
        optional("event_time", pa.string(), "as found"),
        optional("event_type", pa.string(), "as found"),
        optional("weight", pa.string(), "as found"),
        optional("raw", pa.string(), "the whole line, where it could not be split into columns"),
    ],
)
