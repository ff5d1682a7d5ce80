"""Ledger: what the promotions table says happened, for stages that run again later.

A night that is run again must meet the champion it met the first time; otherwise its tables
would change merely because the registry has moved on since.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.command import Night
from schemas.errors import RegistryError
from schemas.partitions import Input, Partition
from schemas.promotions import PROMOTIONS, find_ledger, ledger_dates, read_ledger
from trainer.registry import Registry
from trainer.versions import Version

Row = dict[str, Any]

decisions = read_ledger

DECIDED_WITH = "settings_digest"
"""Note in the ledger's manifest: digest of its decisions' settings, by `decided_at`.

A single digest, as older ledgers have it, is that of the newest.
"""
TICK = timedelta(microseconds=1)
"""Least distance of two decisions, also where the clock was set back between them."""


def append(night: Night, row: Row, settings: Sequence[str], read: Sequence[Input]) -> Row:
    """Adds a row to the night's ledger, publishes it and returns the row with its `decided_at`.

    Args:
        night: Whose ledger it is.
        row: A decision, all columns but `decided_at`.
        settings: Sections that the decision depends on.
        read: What was read besides the night's inputs and the ledger itself.

    Raises:
        RegistryError: The published ledger lacks an earlier row.
    """
    before, earlier = find_ledger(night.root, night.ds), decisions(night.root, night.ds)
    decided_at = max([datetime.now(UTC), *(r["decided_at"] + TICK for r in earlier)])
    row = {**row, "decided_at": decided_at}
    ledger, digest = night.draft(PROMOTIONS), night.settings.digest(settings)
    ledger.notes[DECIDED_WITH] = decided_with(before) | {decided_at.isoformat(): digest}
    ledger.write(pa.Table.from_pylist([*earlier, row], schema=PROMOTIONS.schema))
    inputs = [*night.inputs, *([before.as_input()] if before else []), *read]
    _refuse_lost_rows(night.publish(ledger, inputs=inputs), [*earlier, row])
    return row


def decided_with(ledger: Partition | None) -> dict[str, str]:
    """Digest of the settings of each decision of a ledger, by its `decided_at` as ISO 8601."""
    if ledger is None:
        return {}
    noted = ledger.manifest.notes.get(DECIDED_WITH, "")
    if isinstance(noted, dict):
        return noted
    newest = ledger.read(["decided_at"])["decided_at"][-1].as_py()
    return {newest.isoformat(): noted}


def _refuse_lost_rows(partition: Partition, expected: Sequence[Row]) -> None:
    found = partition.read().num_rows
    if partition.read().to_pylist() != list(expected):
        raise RegistryError(
            f"a ledger of {found} rows that lacks earlier decisions",
            f"the {len(expected)} rows decided so far, unchanged",
            f"point {partition.path.parent} back to the run before {partition.manifest.run}",
        )


def last_promotion(root: Path) -> Row | None:
    """The newest decision to promote, of any night."""
    rows = [row for ds in ledger_dates(root) for row in decisions(root, ds)]
    promotions = [row for row in rows if row["outcome"] == "promote"]
    return max(promotions, key=lambda row: row["decided_at"], default=None)


def opponent(
    registry: Registry, ds: date, weights_sha256: str, trained_until: date
) -> Version | None:
    """The champion that a night's candidate is compared with.

    It is the current one, unless the candidate was decided on before and has since become
    champion itself or been overtaken: then it is the one of the last decision that was not
    against a model of newer data, or of the first.

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
    return _met(registry, decided, trained_until)


def served(registry: Registry, ds: date) -> Version | None:
    """The champion whose recommendations are those of a night.

    It is the current one, unless a later night has been decided on: then it is the one that
    this night's own decision left in place.
    """
    decided = decisions(registry.root, ds)
    if not decided or ledger_dates(registry.root)[-1] <= ds:
        return registry.champion()
    promoted = [row for row in decided if row["outcome"] == "promote"]
    if promoted:
        return standing_for(registry, promoted[-1]["candidate_version"])
    trained_until = registry.get(decided[-1]["candidate_version"]).trained_until
    return _met(registry, decided, trained_until)


def _met(registry: Registry, decided: Sequence[Row], trained_until: date) -> Version | None:
    """The last champion that a night's candidate met and that knew no more than it; or the first.

    A night that is repeated when a newer champion serves is held, and changes nothing.
    """
    for row in reversed(decided):
        number = row["champion_version"]
        champion = standing_for(registry, number) if number else None
        if champion is None or champion.trained_until <= trained_until:
            break
    return champion


def standing_for(registry: Registry, number: int) -> Version:
    """A version of the ledger, or in its place the one that has its weights again."""
    version = registry.get(number)
    return registry.registered(version.weights_sha256) or version
