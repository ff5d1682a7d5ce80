"""Promotions: one row per decision of the gate; rows are only ever added.

Rows of version 2, from before a person could be asked, are read with nobody as `answered_by`.
"""

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.contract import TIMESTAMP, Contract, Field, optional, required
from schemas.partitions import Partition, find, published_dates

VERDICTS = ("promote", "hold", "inconclusive")
"""What the gate can say (`trainer/gate.py`)."""
OUTCOMES = (*VERDICTS, "awaiting")
"""What can follow: `awaiting` is a promotion that a person has not answered yet."""


def _contract(version: int, outcomes: tuple[str, ...], more: tuple[Field, ...]) -> Contract:
    return Contract(
        table="promotions",
        version=version,
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
                one_of=outcomes,
            ),
            required(
                "verdict",
                pa.string(),
                "what the rules say; in a dry run not what follows",
                one_of=VERDICTS,
            ),
            required("mode", pa.string(), "of the gate", one_of=("enforce", "dry_run")),
            required("reason", pa.string(), "every rule that decided, with value and limit"),
            required(
                "rules",
                pa.string(),
                "JSON list: rule, result (passed, failed, unclear or not judged), value, limit, "
                "about and, where there is one, the interval",
            ),
            required("holdout_digest", pa.string(), "content digest of the sequences scored on"),
            required("scorecards_digest", pa.string(), "content digest of the scorecards read"),
            *more,
        ],
        is_ledger=True,
    )


PROMOTIONS = _contract(
    3,
    OUTCOMES,
    (optional("answered_by", pa.string(), "who approved or rejected it; null where nobody did"),),
)
PROMOTIONS_2 = _contract(2, VERDICTS, ())
"""The table before approvals; read, never written."""


def find_ledger(root: Path, ds: date) -> Partition | None:
    """A night's ledger in the newest version that has one; None where nothing was decided.

    Raises:
        CorruptPartitionError: Naming the missing, extra or changed file.
    """
    return find(root, PROMOTIONS, ds) or find(root, PROMOTIONS_2, ds)


def read_ledger(root: Path, ds: date) -> list[dict[str, Any]]:
    """Rows of one night's ledger, oldest first; none where nothing was decided."""
    partition = find_ledger(root, ds)
    rows = partition.read().to_pylist() if partition else []
    return [{"answered_by": None, **row} for row in rows]


def ledger_dates(root: Path) -> list[date]:
    """All nights that something was decided on, oldest first."""
    found = (published_dates(root, contract) for contract in (PROMOTIONS_2, PROMOTIONS))
    return sorted({ds for dates in found for ds in dates})
