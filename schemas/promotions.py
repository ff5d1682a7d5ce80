"""Promotions: one row per decision of the gate; rows are only ever added."""

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, optional, required

PROMOTIONS = Contract(
    table="promotions",
    version=1,
    key=("decided_at", "candidate_version"),
    stage="trainer.promotion",
    about="One decision of the gate about one night's candidate: the ledger of that date.",
    fields=[
        required("decided_at", TIMESTAMP, "when"),
        required("candidate_version", pa.int32(), "model version in the registry", at_least=1),
        required("candidate_digest", pa.string(), "sha256 of its weights"),
        optional("champion_version", pa.int32(), "champion at that moment; null without one"),
        required("outcome", pa.string(), "what follows", one_of=("promote", "hold")),
        required("reason", pa.string(), "the rule that decided, with value and limit"),
        required("rules", pa.string(), "JSON list: rule, value, limit, passed"),
        required("holdout_digest", pa.string(), "content digest of the sequences scored on"),
        required("scorecards_digest", pa.string(), "content digest of the scorecards read"),
    ],
)
