"""Promotion: registers tonight's model and lets the gate decide whether it becomes champion.

One promotion at a time holds the registry's lock. The decision is in the ledger before an alias
moves, and the move is in the journal before and after it (`trainer/operations.py`); a run that was
interrupted after the decision is finished by the next one. A night that was decided already stays
decided. While the registry is held, nothing is promoted. With `gate.approval = "required"` what
passed awaits a person's answer, and `--answer` takes it (`trainer/approval.py`).

Reads:    checkpoints, items, sequences, scorecards, the registered champion, its journal
Writes:   promotions (one more row), aliases and tags in the model registry, its journal
If late:  yesterday's champion keeps serving.
"""

from dataclasses import replace
from datetime import date
from pathlib import Path

from schemas.checkpoints import CHECKPOINTS
from schemas.command import Night, Stage, closing_line, run
from schemas.errors import RegistryError
from schemas.items import ITEMS
from schemas.partitions import Input, find, get
from schemas.promotions import PROMOTIONS, find_ledger
from schemas.scorecards import SCORECARDS
from schemas.sequences import SEQUENCES
from schemas.settings import Settings
from trainer.approval import (
    Answer,
    add_options,
    answer_of,
    answered,
    awaiting,
    refuse_contradiction,
)
from trainer.canary import with_canary
from trainer.case import Case, case_of, is_newer, refuse_other_champion
from trainer.gate import Decision, decide
from trainer.journal import Journal
from trainer.ledger import Row, append, decided_with, decisions, last_promotion
from trainer.operations import exclusive, move, refuse_moved_alias
from trainer.registry import CANDIDATE, Registry
from trainer.versions import Version

STAGE_SETTINGS = ("gate", "evaluation", "recommendations")
TAGS: tuple[str, ...] = ("outcome", "verdict", "mode", "reason", "rules", "decided_at")
TAGS += ("scorecards_digest", "holdout_digest")
"""Columns of the ledger that are tags of the model version too."""


def _inputs(root: Path, ds: date, settings: Settings) -> list[Input]:
    read = (CHECKPOINTS, ITEMS, SEQUENCES, SCORECARDS)
    return [get(root, contract, ds).as_input() for contract in read]


STAGE = Stage(
    module="trainer.promotion",
    doc=__doc__,
    writes=(PROMOTIONS,),
    inputs=_inputs,
    settings=STAGE_SETTINGS,
    always=True,
    options=add_options,
)


def main(night: Night) -> None:
    """Decides about the night's candidate and prints what serves from now on."""
    registry = Registry(night.root, night.settings)
    with exclusive(registry) as journal:
        words = promote(night, registry, journal)
        champion = registry.champion()
    serving = f"version {champion.number} of {champion.ds}" if champion else "none"
    ledger = find(night.root, PROMOTIONS, night.ds)
    if ledger and ledger.manifest.run != night.token:
        print(closing_line(ledger, "unchanged since"), flush=True)
    print(f"promotion {night.ds}: {words}; champion: {serving}", flush=True)


def promote(night: Night, registry: Registry, journal: Journal) -> str:
    """One decision, or the rest of one that was interrupted. Hold the lock while it runs.

    Returns:
        What happened, in words.

    Raises:
        RegistryError: The scorecards are of another candidate or another champion, somebody moved
            the alias, or an answer is to no awaiting decision, or contradicts one.
    """
    case, champion = case_of(night.root, night.ds), registry.champion()
    decided, answer = _standing_decision(night, case, champion), answer_of(night.options)
    if decided and decided["outcome"] == "awaiting" and answer:
        return _answer(night, registry, journal, decided, answer)
    if decided:
        refuse_contradiction(decided, answer)
        _restore(registry, case)
        return _finish(night, registry, journal, decided)
    if answer:
        raise RegistryError(
            "an answer to no decision on these weights and scorecards",
            "one to a decision that awaits it",
            f"run python -m trainer.promotion --ds {night.ds} without an answer",
        )
    if champion and champion.weights_sha256 == case.weights_sha256:
        return "unchanged, the candidate is champion"
    refuse_moved_alias(registry, journal)
    refuse_other_champion(case, champion)
    candidate = registry.register(case.checkpoint, case.items)
    registry.point(CANDIDATE, candidate)
    decision = decide(
        case.scorecards.read(),
        candidate,
        champion,
        night.settings.gate,
        exclude_seen=night.settings.evaluation.exclude_seen,
        has_seen_holdout=case.has_seen_holdout,
    )
    decision = _held(with_canary(decision, night, registry, candidate), journal)
    decision = awaiting(decision, night.settings)
    row = record(night, case, candidate, champion, decision)
    registry.tag(candidate, {name: str(row[name]) for name in TAGS})
    if decision.outcome == "promote":
        _move(registry, journal, candidate, row)
    return f"{decision.outcome} version {candidate.number}: {decision.reason}"


def record(
    night: Night, case: Case, candidate: Version, champion: Version | None, decision: Decision
) -> Row:
    """Adds a decision to the night's ledger, publishes it and returns the row.

    Raises:
        RegistryError: The published ledger lacks an earlier row.
    """
    row: Row = {
        "candidate_version": candidate.number,
        "candidate_digest": candidate.weights_sha256,
        "champion_version": champion.number if champion else None,
        "outcome": decision.outcome,
        "verdict": decision.verdict,
        "mode": night.settings.gate.mode,
        "reason": decision.reason,
        "rules": decision.rules_json(),
        "holdout_digest": case.scorecards.read(["holdout_digest"])["holdout_digest"][0].as_py(),
        "scorecards_digest": case.scorecards.manifest.content_digest,
        "answered_by": None,
    }
    return append(night, row, STAGE_SETTINGS, [champion.as_input()] if champion else [])


def _standing_decision(night: Night, case: Case, champion: Version | None) -> Row | None:
    """The decision on these weights and scorecards, unless other settings may change it.

    A promotion stands. So does any other outcome, except that changed settings reopen it, and
    `--force` what the gate did not pass, as long as the champion has not been trained on newer
    data.
    """
    digest = case.scorecards.manifest.content_digest
    same = [
        row
        for row in decisions(night.root, night.ds)
        if (row["candidate_digest"], row["scorecards_digest"]) == (case.weights_sha256, digest)
    ]
    if not same or same[-1]["outcome"] == "promote":
        return same[-1] if same else None
    is_forced = getattr(night.options, "force", False) and same[-1]["verdict"] != "promote"
    digests = decided_with(find_ledger(night.root, night.ds))
    decided_at = same[-1]["decided_at"].isoformat()
    is_same_gate = digests.get(decided_at) == night.settings.digest(STAGE_SETTINGS)
    # Who answers was asked about these scores, whatever was set since.
    is_answered = same[-1]["outcome"] == "awaiting" and bool(answer_of(night.options))
    is_open = is_forced or not (is_same_gate or is_answered)
    return None if is_open and not is_newer(champion, case) else same[-1]


def _held(decision: Decision, journal: Journal) -> Decision:
    """The decision, or a hold in its place while an operator holds the registry."""
    hold = journal.hold()
    if decision.outcome != "promote" or hold is None:
        return decision
    reason = f"{hold.as_hold}; the gate passed: {decision.reason}"
    return replace(decision, outcome="hold", reason=reason)


def _move(registry: Registry, journal: Journal, candidate: Version, decided: Row) -> None:
    by = _decision(candidate, decided)
    move(registry, journal, "promote", candidate, by=by, reason=decided["reason"])


def _decision(candidate: Version, decided: Row) -> str:
    """How the journal names a decision; it moves the champion once."""
    return f"night {candidate.ds}, decided {decided['decided_at'].isoformat()}"


def _answer(
    night: Night, registry: Registry, journal: Journal, decided: Row, answer: Answer
) -> str:
    """Takes a person's answer: into the ledger first, then, where it promotes, the aliases."""
    champion, candidate = registry.champion(), registry.get(decided["candidate_version"])
    row = answered(decided, answer, champion, journal, night.settings)
    if row["outcome"] == "promote":
        registry.download(candidate)  # days may have passed since the canary
    row = append(night, row, STAGE_SETTINGS, [champion.as_input()] if champion else [])
    registry.tag(candidate, {name: str(row[name]) for name in TAGS})
    if row["outcome"] == "promote" and champion != candidate:
        _move(registry, journal, candidate, row)
    return f"{row['outcome']} version {candidate.number}: {row['reason']}"


def _finish(night: Night, registry: Registry, journal: Journal, decided: Row) -> str:
    """Moves the aliases of a promotion that was decided and then interrupted.

    Not where it has moved them before and was rolled back, nor while the registry is held, nor
    where approval has become required since, nor where the gate decides without consequence.
    """
    champion, candidate = registry.champion(), registry.get(decided["candidate_version"])
    registry.tag(candidate, {name: str(decided[name]) for name in TAGS})
    number = champion.number if champion else None
    has_moved = _decision(candidate, decided) in {entry.by for entry in journal.moves()}
    is_approved = night.settings.gate.approval == "none" or decided["answered_by"] is not None
    is_open = not has_moved and journal.hold() is None and decided == last_promotion(registry.root)
    is_open &= night.settings.gate.mode == "enforce"
    if is_approved and is_open and number == decided["champion_version"] != candidate.number:
        _move(registry, journal, candidate, decided)
        return f"promote version {candidate.number}, finished after an interruption"
    return f"unchanged, {decided['outcome']} of version {candidate.number} stands"


def _restore(registry: Registry, case: Case) -> None:
    """Registers the night's model again where its artifact was collected: others may need it."""
    if registry.registered(case.weights_sha256) is None:
        registry.register(case.checkpoint, case.items)


if __name__ == "__main__":
    run(STAGE, main)
