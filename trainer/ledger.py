"""Ledger: what the promotions table says happened, for stages that run again later.

A night that is run again must meet the champion it met the first time; otherwise its tables
would change merely because the registry has moved on since.
"""

from datetime import date
from pathlib import Path
from typing import Any

from schemas.partitions import find, published_dates
from schemas.promotions import PROMOTIONS
from trainer.registry import Registry
from trainer.versions import Version

Row = dict[str, Any]


def decisions(root: Path, ds: date) -> list[Row]:
    """Rows of one night's ledger, oldest first; none where nothing was decided."""
    partition = find(root, PROMOTIONS, ds)
    return partition.read().to_pylist() if partition else []


def last_promotion(root: Path) -> Row | None:
    """The newest decision to promote, of any night."""
    rows = [row for ds in published_dates(root, PROMOTIONS) for row in decisions(root, ds)]
    promotions = [row for row in rows if row["outcome"] == "promote"]
    return max(promotions, key=lambda row: row["decided_at"], default=None)


def opponent(
    registry: Registry, ds: date, weights_sha256: str, trained_until: date
) -> Version | None:
    """The champion that a night's candidate is compared with.

    It is the current one, unless the candidate was decided on before and has since become
    champion itself or been overtaken: then it is the one of that decision.

    Args:
        registry: Where the champion is looked up.
        ds: The candidate's night.
        weights_sha256: Of the candidate.
        trained_until: Of the candidate.
    """
    current = registry.champion()
    decided = [r for r in decisions(registry.root, ds) if r["candidate_digest"] == weights_sha256]
    if current is None or not decided:
        return current
    is_itself = current.weights_sha256 == weights_sha256
    if not is_itself and current.trained_until <= trained_until:
        return current
    return _get(registry, decided[-1]["champion_version"])


def served(registry: Registry, ds: date) -> Version | None:
    """The champion whose recommendations are those of a night.

    It is the current one, unless a later night has been decided on: then it is the one that
    this night's own decision left in place.
    """
    decided = decisions(registry.root, ds)
    if not decided or published_dates(registry.root, PROMOTIONS)[-1] <= ds:
        return registry.champion()
    last = decided[-1]
    is_promoted = last["outcome"] == "promote"
    return _get(registry, last["candidate_version" if is_promoted else "champion_version"])


def _get(registry: Registry, number: int | None) -> Version | None:
    return registry.get(number) if number else None
