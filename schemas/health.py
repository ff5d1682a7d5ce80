"""Health: one row per watched number of one night, beside what is usual and what is allowed."""

import pyarrow as pa

from schemas.contract import Contract, optional, required

HEALTH = Contract(
    table="health",
    version=1,
    key=("metric",),
    stage="jobs.health",
    about=(
        "One watched number of the night's day, beside the weeks before it. What is beyond a limit "
        "is published like anything else, and stops the night after that."
    ),
    fields=[
        required(
            "metric",
            pa.string(),
            "volume (interactions), quarantine_rate (quarantined among valid and quarantined "
            "rows), freshness (hours from the newest event to the end of the day), drift "
            "(Jensen-Shannon divergence, base 2, of the day's items from the earlier days')",
            one_of=("volume", "quarantine_rate", "freshness", "drift"),
        ),
        optional("value", pa.float64(), "of the night; null where there is nothing to compare"),
        optional("usual", pa.float64(), "median of the comparable earlier days"),
        optional("at_least", pa.float64(), "least value that lets the night go on"),
        optional("at_most", pa.float64(), "greatest value that lets the night go on"),
        required(
            "verdict",
            pa.string(),
            "how it compares; too little history is recorded, not judged",
            one_of=("within", "beyond", "not_judged"),
        ),
        required("num_days", pa.int32(), "comparable earlier days", at_least=0),
    ],
)
