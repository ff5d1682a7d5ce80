"""Gate: whether a candidate may serve. A pure function of scorecards and settings.

All rules are tried. The champion stays unless every rule that applies has passed:

    promote       no rule failed and none is unclear
    hold          at least one rule failed: the evidence speaks against the candidate
    inconclusive  none failed, but at least one is unclear: the evidence does not decide

A rule fails when its limit is missed on sound evidence. It is unclear when its value is missing
or not a number (a baseline, slice or coverage that was not measured), when the evidence itself
is not sound (too few users, several holdouts, a holdout that a model trained on), and when a
loss against the champion beyond its limit is not proven: its interval still reaches 0.
Not judged are slices of too few users, and whether the holdout was seen where nobody can say.
Without a champion (the first night) the absolute rules decide alone.
`docs/decisions/0012-inconclusive-is-not-a-hold.md` says why.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from schemas.errors import DataError
from schemas.settings import GateSettings
from trainer.evidence import Evidence
from trainer.rules import Missed, Rule, named, rules_json
from trainer.versions import CHAMPION, Version

COVERAGE = "coverage@10"
SLICES = ("new_users", "light_users", "tail_items")
"""Slices with a limit, `<slice>_margin` in the settings."""

Verdict = Literal["promote", "hold", "inconclusive"]
Outcome = Verdict | Literal["awaiting"]
"""What follows from a verdict; a promotion may be awaiting a person's approval."""


@dataclass(frozen=True)
class Decision:
    """What follows, what the rules say, why, and every rule that was tried."""

    outcome: Outcome
    verdict: Verdict
    """The outcome, if it were not for a dry run, a hold or an approval."""
    reason: str
    rules: list[Rule]

    def rules_json(self) -> str:
        """The rules as the ledger keeps them."""
        return rules_json(self.rules)


def decide(
    scorecards: pa.Table,
    candidate: Version,
    champion: Version | None,
    settings: GateSettings,
    *,
    exclude_seen: bool,
    has_seen_holdout: Mapping[str, bool | None],
) -> Decision:
    """Decides about one candidate.

    Args:
        scorecards: Rows of the scorecards table.
        candidate: The version under test.
        champion: The version that serves now, if any.
        settings: The gate section.
        exclude_seen: The holdout that counts.
        has_seen_holdout: By `candidate` and `champion`, whether it trained on days of the holdout;
            None where nobody can say.

    Returns:
        The verdict with every rule that decided, value and limit included. In a dry run what
        would be a promotion holds.

    Raises:
        DataError: The candidate was not scored.
    """
    metrics = [settings.metric, COVERAGE, *(f"{settings.metric}/{name}" for name in SLICES)]
    evidence = Evidence(scorecards, metrics, candidate, champion, exclude_seen=exclude_seen)
    if evidence.value("candidate", settings.metric) is None:
        raise DataError(
            f"no {settings.metric} of candidate {candidate.weights_sha256[:12]} in the scorecards",
            f"one with exclude_seen {str(exclude_seen).lower()}",
            "re-run python -m trainer.evaluation for this date",
        )
    grounds = list(_grounds(evidence, settings, has_seen_holdout))
    rules = [*grounds, *_absolute_rules(evidence, settings, _if_missed(grounds))]
    if champion:
        more = list(_champion_grounds(evidence, candidate, champion, settings, has_seen_holdout))
        if_missed = _if_missed([*grounds, *more])
        rules += [*more, *_champion_rules(evidence, champion, settings, if_missed)]
    return _decision(rules, champion, settings)


def _decision(rules: list[Rule], champion: Version | None, settings: GateSettings) -> Decision:
    results = {rule.result for rule in rules}
    verdict: Verdict = "promote"
    reason = _why_promoted(rules, champion)
    if "failed" in results:
        verdict, reason = "hold", named(rules, "failed")
    elif "unclear" in results:
        verdict, reason = "inconclusive", named(rules, "unclear")
    if settings.mode == "enforce":
        return Decision(verdict, verdict, reason, rules)
    outcome: Verdict = "hold" if verdict == "promote" else verdict
    return Decision(outcome, verdict, f"dry run, the rules say {verdict}: {reason}", rules)


def _why_promoted(rules: list[Rule], champion: Version | None) -> str:
    by_name = {rule.name: rule for rule in rules}
    if champion is None:
        words = f"no champion yet, the absolute rules decide: {by_name['floor']}"
        return f"{words}; {by_name['beats_popularity']}"
    return f"{by_name['not_worse_than_champion']}; {by_name['beats_popularity']}"


def _grounds(
    evidence: Evidence, settings: GateSettings, has_seen: Mapping[str, bool | None]
) -> Iterator[Rule]:
    """What makes evidence sound: a rule missed here says nothing about the candidate."""
    num_users, limit = evidence.cards["candidate", settings.metric]["num_users"], settings.min_users
    yield Rule("min_users", "users scored", num_users, "≥", limit, if_missed="unclear")
    num_holdouts = evidence.num_holdouts()
    yield Rule("same_holdout", "holdouts scored on", num_holdouts, "=", 1, if_missed="unclear")
    yield _unseen("candidate", has_seen)


def _champion_grounds(
    evidence: Evidence,
    candidate: Version,
    champion: Version,
    settings: GateSettings,
    has_seen: Mapping[str, bool | None],
) -> Iterator[Rule]:
    """The same for comparisons with the champion, and that the candidate is not outdated."""
    days_ahead = (candidate.trained_until - champion.trained_until).days
    about = f"days by which the candidate's training data reach beyond champion {champion.number}'s"
    yield Rule("champion_is_newer", about, days_ahead, "≥", 0)
    is_scored = int(evidence.value(CHAMPION, settings.metric) is not None)
    about = f"scorecards of champion {champion.number}"
    yield Rule("champion_is_scored", about, is_scored, "=", 1, if_missed="unclear")
    yield _unseen(CHAMPION, has_seen)


def _unseen(model: str, has_seen: Mapping[str, bool | None]) -> Rule:
    found = has_seen.get(model)
    value, about = None if found is None else int(found), f"{model}s that trained on the holdout"
    return Rule(
        f"{model}_unseen_holdout",
        about,
        value,
        "=",
        0,
        if_missed="unclear",
        is_judged=found is not None,
    )


def _if_missed(grounds: list[Rule]) -> Missed:
    return "unclear" if any(rule.result == "unclear" for rule in grounds) else "failed"


def _absolute_rules(
    evidence: Evidence, settings: GateSettings, if_missed: Missed
) -> Iterator[Rule]:
    metric = settings.metric
    value = evidence.cards["candidate", metric]["value"]
    num_broken = int((~np.isfinite([value, *evidence.users("candidate", metric)])).sum())
    yield Rule("finite", f"values of {metric} that are not finite", num_broken, "=", 0)
    yield Rule("floor", metric, value, "≥", settings.floor, if_missed=if_missed)
    covered, limit = evidence.value("candidate", COVERAGE), settings.coverage_floor
    yield Rule("coverage_floor", COVERAGE, covered, "≥", limit, if_missed=if_missed)
    margins = {"popularity": settings.popularity_margin, "item_knn": settings.item_knn_margin}
    for baseline, margin in margins.items():
        reached = evidence.value(baseline, metric)
        gain = None if reached is None else value - reached
        about = f"{metric} minus {baseline}'s"
        yield Rule(f"beats_{baseline}", about, gain, ">", margin, if_missed=if_missed)


def _champion_rules(
    evidence: Evidence, champion: Version, settings: GateSettings, if_missed: Missed
) -> Iterator[Rule]:
    metric, over = settings.metric, f"over champion {champion.number}"
    gain = evidence.paired_gain(metric, settings)
    low, interval = (gain.interval[0], gain.interval) if gain else (None, None)
    about = f"lower end of the {settings.confidence:.0%} interval of the relative gain in "
    about += f"{metric} {over}" + (f" ({low:+.2%} to {gain.interval[1]:+.2%})" if gain else "")
    limit = -settings.champion_margin
    yield Rule("not_worse_than_champion", about, low, "≥", limit, interval, if_missed)
    margins = (settings.new_users_margin, settings.light_users_margin, settings.tail_items_margin)
    for name, margin in zip(SLICES, margins, strict=True):
        yield _slice_rule(evidence, name, over, margin, settings, if_missed)
    about, drop = f"relative gain in {COVERAGE} {over}", evidence.relative_gain(COVERAGE)
    limit = -settings.max_coverage_drop
    yield Rule("coverage", about, drop, "≥", limit, if_missed=if_missed)


def _slice_rule(
    evidence: Evidence,
    name: str,
    over: str,
    margin: float,
    settings: GateSettings,
    if_missed: Missed,
) -> Rule:
    metric = f"{settings.metric}/{name}"
    num_users, gain = evidence.num_users(metric), evidence.paired_gain(metric, settings)
    value, interval = (gain.value, gain.interval) if gain else (None, None)
    about = f"relative gain in {metric} of {num_users} users {over}"
    about += f" ({interval[0]:+.2%} to {interval[1]:+.2%})" if interval else ""
    is_judged = num_users >= settings.slice_min_users
    return Rule(name, about, value, "≥", -margin, interval, if_missed, is_judged)
