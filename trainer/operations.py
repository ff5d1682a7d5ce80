"""Operations: the champion moves, and who may move it.

Each move takes the one lock (`trainer/journal.py`), finishes what a killed process left, reads
the registry again, writes the intent, moves the aliases, and writes that it is done. Moving twice
is moving once, so an interrupted move is finished by doing all of it again.

A promotion needs a gate record that passed; a rollback goes to a version that once had one. While
the registry is held, nights decide and never promote; a rollback holds it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from schemas.errors import RegistryError, UsageError
from trainer.journal import Action, Entry, Journal, lock
from trainer.ledger import Row, decisions, standing_for
from trainer.registry import PREVIOUS, Registry
from trainer.versions import CHAMPION, Version

OPERATOR = "operator"


@dataclass(frozen=True)
class Outcome:
    """What an operation did, or would do."""

    words: str
    serves: Version | None
    """The champion afterwards."""


@contextmanager
def exclusive(registry: Registry, *, dry_run: bool = False) -> Iterator[Journal]:
    """The lock, with whatever an interrupted process left finished.

    Raises:
        RegistryError: A dry run would have to finish something first.
    """
    with lock(registry.root):
        journal = Journal(registry.root)
        if (intent := journal.pending()) and not dry_run:
            champion = registry.champion()
            _apply(registry, journal, intent)
            journal = Journal(registry.root, intent, champion.number if champion else None)
        elif intent:
            raise RegistryError(
                f"an interrupted {intent.action} of version {intent.version}",
                "nothing to finish: a dry run changes nothing",
                "run it without --dry-run, or any night's promotion, which finish it first",
            )
        yield journal


def move(
    registry: Registry,
    journal: Journal,
    action: Action,
    version: Version,
    *,
    by: str,
    reason: str,
) -> None:
    """Makes a version champion and the champion previous. Hold the lock."""
    champion = registry.champion()
    replaces = champion.number if champion else None
    intent = journal.append(action, "intent", by, reason, version.number, replaces)
    _apply(registry, journal, intent)


def refuse_moved_alias(registry: Registry, journal: Journal) -> None:
    """Lets a promotion go on only from the champion that the journal's last move left.

    Where it was lost, by hand or with an older backup, the gate would compare with nobody.

    Raises:
        RegistryError: Another version is champion, or none.
    """
    moves, champion = journal.moves(), registry.champion()
    found = champion.number if champion else None
    if moves and found != moves[-1].version:
        raise RegistryError(
            f"champion: {f'version {found}' if found else 'none'}",
            f"version {moves[-1].version}, which the last move in {journal.path} left",
            "python -m trainer.registry verify says how to restore it",
        )


def _apply(registry: Registry, journal: Journal, intent: Entry) -> None:
    assert intent.version is not None
    champion = registry.get(intent.version)
    if intent.replaces:
        registry.point(PREVIOUS, registry.get(intent.replaces))
    registry.point(CHAMPION, champion)
    journal.append(intent.action, "done", intent.by, intent.reason, intent.version, intent.replaces)


def promote(registry: Registry, number: int, reason: str, *, dry_run: bool = False) -> Outcome:
    """Promotes a version by hand: one that a hold alone kept from promotion, say.

    Raises:
        RegistryError: No passing gate record, one against another champion, a damaged artifact, or
            an alias that somebody moved.
        UsageError: The version was trained on older data than the champion.
    """
    with exclusive(registry, dry_run=dry_run) as journal:
        refuse_moved_alias(registry, journal)
        version, champion = standing_for(registry, number), registry.champion()
        number = version.number  # another one where its artifact was collected and made again
        if champion and champion.number == number:
            return Outcome(f"unchanged, version {number} is champion", champion)
        if champion and champion.trained_until > version.trained_until:
            raise UsageError(
                f"version {number}, trained until {version.trained_until}",
                f"data as new as the champion's, {champion.trained_until}",
                f"rollback --to {number}, if an older model is what should serve",
            )
        record = gate_record(registry, version)
        if record is None or not has_passed(record):
            raise _no_pass(version, record)
        current = champion.number if champion else None
        if record["champion_version"] != current:
            raise RegistryError(
                f"a gate record of version {number} against version {record['champion_version']}",
                f"one against the current champion, {current}",
                f"re-run trainer.evaluation and trainer.promotion with --ds {version.ds}",
            )
        registry.download(version)
        if not dry_run:
            move(registry, journal, "promote", version, by=OPERATOR, reason=reason)
        return Outcome(f"promote version {number}", version)


def rollback(
    registry: Registry, number: int | None, reason: str, *, dry_run: bool = False
) -> Outcome:
    """Goes back to the version that the champion replaced, or to an earlier one, and holds.

    Raises:
        RegistryError: Nothing to go back to, the artifact there is damaged, or a promotion had to
            be finished first.
    """
    with exclusive(registry, dry_run=dry_run) as journal:
        champion, finished = registry.champion(), journal.finished
        if champion is None:
            raise RegistryError("no champion", "one to roll back from", "wait for a promotion")
        if number is None and finished and finished.action == "rollback":
            # Whoever repeats an interrupted rollback means that one, not a further one.
            return Outcome("rollback that was interrupted; held until released", champion)
        had_served = finished and journal.served == finished.version
        if number is None and finished and finished.replaces and not had_served:
            raise RegistryError(
                f"an interrupted promotion of version {finished.version}, which is finished now: "
                f"until then version {journal.served} served",
                "a rollback from what serves now",
                f"repeat it to go back to {finished.replaces}, or name another with --to",
            )
        if number is None:
            number = _replaced_by(registry, journal, champion)
        if number is None:
            raise RegistryError(
                f"version {champion.number}, which replaced none",
                "an earlier champion",
                "rollback --to VERSION; history shows them",
            )
        version = standing_for(registry, number)
        if version.number == champion.number:
            return Outcome(f"unchanged, version {version.number} is champion", champion)
        if not has_ever_passed(registry, version):
            raise _no_pass(version, gate_record(registry, version))
        registry.download(version)
        if not dry_run:
            move(registry, journal, "rollback", version, by=OPERATOR, reason=reason)
        return Outcome(f"rollback from version {champion.number}; held until released", version)


def hold(registry: Registry, reason: str, *, dry_run: bool = False) -> Outcome:
    """From now on nights train, score and register, and never promote."""
    with exclusive(registry, dry_run=dry_run) as journal:
        if not dry_run:
            journal.append("hold", "done", OPERATOR, reason)
        return Outcome("hold; nights do not promote until released", registry.champion())


def release(registry: Registry, reason: str, *, dry_run: bool = False) -> Outcome:
    """Lets nights promote again; what they decided while held stays as it is."""
    with exclusive(registry, dry_run=dry_run) as journal:
        if journal.hold() is None:
            return Outcome("unchanged, the registry is not held", registry.champion())
        if not dry_run:
            journal.append("release", "done", OPERATOR, reason)
        return Outcome("release; the next passing night promotes", registry.champion())


def gate_record(registry: Registry, version: Version) -> Row | None:
    """The newest decision on a version's weights, None where the gate never saw them."""
    rows = _gate_records(registry, version)
    return max(rows, key=lambda row: row["decided_at"], default=None)


def has_ever_passed(registry: Registry, version: Version) -> bool:
    """Whether the gate ever passed a version's weights, whatever it said of them later."""
    return any(map(has_passed, _gate_records(registry, version)))


def _gate_records(registry: Registry, version: Version) -> list[Row]:
    # Not of other nights: one damaged ledger would keep every version from a rollback.
    rows = decisions(registry.root, version.ds)
    return [row for row in rows if row["candidate_digest"] == version.weights_sha256]


def has_passed(record: Row) -> bool:
    """Whether the gate passed it, though a hold, a dry run or a person may have kept it back."""
    return bool(record["verdict"] == "promote")


def _no_pass(version: Version, record: Row | None) -> RegistryError:
    """The error of a version whose newest gate record, if any, did not pass."""
    found = f"{record['outcome']}: {record['reason']}" if record else "no decision"
    return RegistryError(
        f"{found} on version {version.number} in the gate's ledger",
        "a gate record that passed",
        f"re-run trainer.evaluation and trainer.promotion with --ds {version.ds} --force",
    )


def _replaced_by(registry: Registry, journal: Journal, champion: Version) -> int | None:
    """The version that served before the champion was last promoted."""
    moves = [e for e in journal.moves() if e.action == "promote" and e.version == champion.number]
    if moves:
        return moves[-1].replaces
    record = gate_record(registry, champion)
    return record["champion_version"] if record else None
