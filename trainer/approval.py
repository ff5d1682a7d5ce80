"""Approval: what a person's answer makes of a decision that awaits one.

With `gate.approval = "required"` the gate lets nobody serve by itself: its promotion is `awaiting`
in the ledger. The answer is given to the stage that decides, `trainer.promotion`:

    python -m trainer.promotion --ds 2017-10-31 --answer approve --by alice
"""

import argparse
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from schemas.errors import RegistryError, UsageError
from schemas.settings import Settings
from trainer.gate import Decision
from trainer.journal import Journal
from trainer.ledger import Row
from trainer.versions import Version

Kind = Literal["approve", "reject", "timeout"]
APPROVED = "approved by"
"""How the reason of what a person approved begins."""


@dataclass(frozen=True)
class Answer:
    """What was said to a decision, by whom."""

    kind: Kind
    by: str | None
    """Who; None where nobody answered in time."""
    decided_at: datetime | None = None
    """The decision that was shown; None means the night's newest."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that carry an answer; without them the stage decides."""
    about = "what a person says to tonight's awaiting decision; timeout where nobody did"
    parser.add_argument("--answer", choices=("approve", "reject", "timeout"), help=about)
    parser.add_argument("--by", default="", help="who approves or rejects")
    about = "decided_at of the decision that was shown, ISO 8601 (the newest)"
    parser.add_argument("--decision", type=datetime.fromisoformat, help=about)


def answer_of(options: argparse.Namespace) -> Answer | None:
    """The answer of a command line; None where none is given.

    Raises:
        UsageError: An approval or rejection by nobody.
    """
    kind = getattr(options, "answer", None)
    if kind is None:
        return None
    if kind != "timeout" and not options.by.strip():
        raise UsageError(f"--answer {kind} by nobody", "who answers", "--by NAME")
    by = None if kind == "timeout" else options.by.strip()
    return Answer(kind, by, options.decision)


def awaiting(decision: Decision, settings: Settings) -> Decision:
    """The decision, or in place of a promotion one that awaits approval, where that is required."""
    if decision.outcome != "promote" or settings.gate.approval == "none":
        return decision
    return replace(decision, outcome="awaiting")


def answered(
    decided: Row, answer: Answer, champion: Version | None, journal: Journal, settings: Settings
) -> Row:
    """What follows from an answer, as a row of the ledger without its `decided_at`.

    An approval promotes unless the registry is held by now, or another champion serves than the
    one that the candidate was compared with.

    Args:
        decided: The awaiting decision.
        answer: What was said.
        champion: The version that serves now.
        journal: Of the registry, under its lock.
        settings: The night's.

    Raises:
        RegistryError: The answer is to another decision.
    """
    if answer.decided_at not in (None, decided["decided_at"]):
        raise RegistryError(
            f"an answer to the decision of {answer.decided_at}",
            f"one to that of {decided['decided_at']}, which has replaced it",
            "trigger the night again, to be asked about that one",
        )
    outcome, words = _outcome(decided, answer, champion, journal, settings)
    reason = f"{words}; the gate passed: {decided['reason']}"
    return {**decided, "outcome": outcome, "reason": reason, "answered_by": answer.by}


def refuse_contradiction(decided: Row, answer: Answer | None) -> None:
    """Lets an answer pass that says again what was decided, as a retry does.

    Raises:
        RegistryError: It says something else, too late.
    """
    is_approved = decided["outcome"] == "promote" or decided["reason"].startswith(APPROVED)
    said = {"approve": is_approved, "reject": decided["outcome"] != "promote", "timeout": True}
    if answer and not said[answer.kind]:
        outcome, number = decided["outcome"], decided["candidate_version"]
        fix = f"promote {number}" if answer.kind == "approve" else "rollback"
        raise RegistryError(
            f"{answer.kind} by {answer.by}",
            f"no more answers: {outcome} was decided at {decided['decided_at']}, as "
            f"{decided['reason']}",
            f"if it should be otherwise: python -m trainer.registry {fix} --reason ...",
        )


def _outcome(
    decided: Row, answer: Answer, champion: Version | None, journal: Journal, settings: Settings
) -> tuple[str, str]:
    if answer.kind == "timeout":
        return "hold", f"nobody answered within {settings.gate.approval_timeout_hours:g} h"
    if answer.kind == "reject":
        return "hold", f"rejected by {answer.by}"
    words, hold = f"{APPROVED} {answer.by}", journal.hold()
    if settings.gate.mode == "dry_run":
        return "hold", f"{words}, in a dry run"
    if hold:
        return "hold", f"{words}, but {hold.as_hold}"
    number, before = champion.number if champion else None, decided["champion_version"]
    if number not in (before, decided["candidate_version"]):
        return "hold", f"{words}, but champion is {number} now, it was {before} when compared"
    return "promote", words
