"""Gate: whether a candidate may serve. A pure function of scorecards and settings.

Rules are tried in the order of this file; the first that fails names the reason of a hold.
Without a champion (the first night) the absolute rules decide alone. A rule whose value cannot
be computed fails: a missing baseline or a metric that is not a number holds the candidate.

    B users, the same for both models
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DataError
from schemas.settings import GateSettings
from trainer.versions import Version

REQUIRED_BASELINES = ("popularity", "item_knn")
DRAWS_AT_ONCE = 10_000_000
"""Users drawn per block of the bootstrap; bounds its memory."""

_COMPARE = {
    "≥": lambda value, limit: value >= limit,
    ">": lambda value, limit: value > limit,
    "=": lambda value, limit: value == limit,
}


@dataclass(frozen=True)
class Rule:
    """One condition: `about` must compare with the limit as stated."""

    name: str
    about: str
    value: float | None
    sign: Literal["≥", ">", "="]
    limit: float
    interval: tuple[float, float] | None = None
    """Of the value's estimate, where it is the lower end of one."""

    @property
    def passed(self) -> bool:
        """Whether the condition holds; false where the value is missing or not a number."""
        return (
            self.value is not None
            and math.isfinite(self.value)
            and _COMPARE[self.sign](self.value, self.limit)
        )

    def __str__(self) -> str:
        value = "missing" if self.value is None else f"{self.value:.4g}"
        return f"{self.about} is {value}, must be {self.sign} {self.limit:.4g}"

    def as_row(self) -> dict[str, Any]:
        """The rule as the ledger keeps it; NaN becomes null."""
        known = self.value is not None and math.isfinite(self.value)
        row = {"rule": self.name, "value": self.value if known else None, "limit": self.limit}
        row |= {"passed": self.passed, "about": str(self)}
        return row | ({"interval": list(self.interval)} if self.interval else {})


@dataclass(frozen=True)
class Decision:
    """What follows, why, and every rule that was tried."""

    outcome: Literal["promote", "hold"]
    reason: str
    rules: list[Rule]

    def rules_json(self) -> str:
        """The rules as the ledger keeps them."""
        return json.dumps([r.as_row() for r in self.rules], ensure_ascii=False, allow_nan=False)


def decide(
    scorecards: pa.Table,
    candidate: Version,
    champion: Version | None,
    settings: GateSettings,
    *,
    exclude_seen: bool,
) -> Decision:
    """Decides about one candidate.

    Args:
        scorecards: Rows of the scorecards table.
        candidate: The version under test.
        champion: The version that serves now, if any.
        settings: The gate section.
        exclude_seen: The holdout that counts.

    Returns:
        `promote` if every rule passes, else `hold`; the reason in words, value and limit included.

    Raises:
        DataError: The candidate was not scored.
    """
    evidence = _Evidence(scorecards, settings.metric, exclude_seen)
    if evidence.value("candidate", candidate.weights_sha256) is None:
        raise DataError(
            f"no {settings.metric} of candidate {candidate.weights_sha256[:12]} in the scorecards",
            f"one with exclude_seen {str(exclude_seen).lower()}",
            "re-run python -m trainer.evaluation for this date",
        )
    rules = list(_absolute_rules(evidence, settings))
    if champion:
        rules += _champion_rules(evidence, candidate, champion, settings)
    failed = [rule for rule in rules if not rule.passed]
    if failed:
        return Decision("hold", f"{failed[0].name}: {failed[0]}", rules)
    return Decision("promote", _why_promoted(rules, champion), rules)


def paired_interval(
    candidate_B: np.ndarray, champion_B: np.ndarray, settings: GateSettings
) -> tuple[float, float]:
    """Bootstrap interval of the candidate's mean gain, as a share of the champion's mean.

    Users are resampled with replacement, both models' values together (paired percentile
    bootstrap; Efron & Tibshirani 1993, ch. 13). A champion with mean 0 makes it the plain gain.

    Args:
        candidate_B: The metric per user.
        champion_B: The same users in the same order.
        settings: `confidence`, `num_resamples` and `seed`.

    Returns:
        The ends of the interval.
    """
    gains_B = candidate_B - champion_B
    generator = np.random.default_rng(settings.seed)
    block = max(1, DRAWS_AT_ONCE // len(gains_B))
    means = []
    for start in range(0, settings.num_resamples, block):
        size = (min(block, settings.num_resamples - start), len(gains_B))
        means.append(gains_B[generator.integers(len(gains_B), size=size)].mean(axis=1))
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail]) / (champion_B.mean() or 1.0)
    return float(low), float(high)


class _Evidence:
    """The scorecards of one metric on one holdout."""

    def __init__(self, scorecards: pa.Table, metric: str, exclude_seen: bool) -> None:
        is_wanted = pc.and_(
            pc.equal(scorecards["metric"], metric),
            pc.equal(scorecards["exclude_seen"], exclude_seen),
        )
        self.cards = {row["model"]: row for row in scorecards.filter(is_wanted).to_pylist()}

    def value(self, model: str, digest: str = "") -> float | None:
        """The mean of a model with these weights; None where it was not scored."""
        card = self.cards.get(model)
        return card["value"] if card and card["model_digest"] == digest else None

    def users(self, model: str) -> np.ndarray:
        """The values of a scored model by user. [B] float64."""
        return np.array(self.cards[model]["user_values"], dtype=np.float64)


def _absolute_rules(evidence: _Evidence, settings: GateSettings) -> Iterator[Rule]:
    metric, card = settings.metric, evidence.cards["candidate"]
    value, popularity = card["value"], evidence.value("popularity")
    yield Rule("min_users", "users scored", card["num_users"], "≥", settings.min_users)
    num_broken = int((~np.isfinite([value, *evidence.users("candidate")])).sum())
    yield Rule("finite", f"values of {metric} that are not finite", num_broken, "=", 0)
    num_missing = sum(evidence.value(name) is None for name in REQUIRED_BASELINES)
    about = f"baselines without a scorecard (of {', '.join(REQUIRED_BASELINES)})"
    yield Rule("baselines", about, num_missing, "=", 0)
    num_holdouts = len({c["holdout_digest"] for c in evidence.cards.values()})
    yield Rule("same_holdout", "holdouts scored on", num_holdouts, "=", 1)
    yield Rule("floor", metric, value, "≥", settings.floor)
    gain = None if popularity is None else value - popularity
    about = f"{metric} minus popularity's"
    yield Rule("beats_popularity", about, gain, ">", settings.popularity_margin)


def _champion_rules(
    evidence: _Evidence, candidate: Version, champion: Version, settings: GateSettings
) -> Iterator[Rule]:
    days_ahead = (candidate.trained_until - champion.trained_until).days
    about = f"days by which the candidate's training data reach beyond champion {champion.number}'s"
    yield Rule("champion_is_newer", about, days_ahead, "≥", 0)
    is_scored = evidence.value("champion", champion.weights_sha256) is not None
    about = f"scorecards of champion {champion.number}"
    yield Rule("champion_is_scored", about, int(is_scored), "=", 1)
    interval = _interval(evidence, settings) if is_scored else None
    about = (
        f"lower end of the {settings.confidence:.0%} interval of the relative gain in "
        f"{settings.metric} over champion {champion.number}"
    )
    about += f" ({interval[0]:+.2%} to {interval[1]:+.2%})" if interval else ""
    low, limit = interval[0] if interval else None, -settings.champion_margin
    yield Rule("not_worse_than_champion", about, low, "≥", limit, interval)


def _interval(evidence: _Evidence, settings: GateSettings) -> tuple[float, float] | None:
    """None where the values are not of the same users, or not finite."""
    candidate_B, champion_B = evidence.users("candidate"), evidence.users("champion")
    is_paired = len(candidate_B) == len(champion_B) and np.isfinite(candidate_B + champion_B).all()
    return paired_interval(candidate_B, champion_B, settings) if is_paired else None


def _why_promoted(rules: list[Rule], champion: Version | None) -> str:
    named = {rule.name: rule for rule in rules}
    if champion is None:
        words = f"no champion yet, the absolute rules decide: {named['floor']}"
        return f"{words}; {named['beats_popularity']}"
    return f"{named['not_worse_than_champion']}; {named['beats_popularity']}"
