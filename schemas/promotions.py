"""Promotions: one row per decision of the gate; rows are only ever added."""

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, optional, required

OUTCOMES = ("promote", "hold", "inconclusive")
"""What the gate can say (`trainer/gate.py`)."""

PROMOTIONS = Contract(
    table="promotions",
    version=2,
    key=("decided_at", "candidate_version"),
    stage="trainer.promotion",
    about="One decision of the gate about one night's candidate: the ledger of that date.",
    fields=[
        required("decided_at", TIMESTAMP, "when"),
        required("candidate_version", pa.int32(), "model version in the registry", at_least=1),
        required("candidate_digest", pa.string(), "sha256 of its weights"),
        optional("champion_version", pa.int32(), "champion at that moment; null without one"),
        required(
            "outcome",
            pa.string(),
            "what follows; the champion changes with promote only",
            one_of=OUTCOMES,
        ),
        required(
            "verdict",
            pa.string(),
            "what the rules say; in a dry run not what follows",
            one_of=OUTCOMES,
        ),
        required("mode", pa.string(), "of the gate", one_of=("enforce", "dry_run")),
        required("reason", pa.string(), "every rule that decided, with value and limit"),
        required(
            "rules",
            pa.string(),
            "JSON list: rule, result (passed, failed, unclear or not judged), value, limit, about "
            "and, where there is one, the interval",
        ),
        required("holdout_digest", pa.string(), "content digest of the sequences scored on"),
        required("scorecards_digest", pa.string(), "content digest of the scorecards read"),
    ],
)
