"""Evidence: what scorecards say about the models that the gate compares.

B users, the same for both models
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.settings import GateSettings
from trainer.versions import CHAMPION, Version

DRAWS_AT_ONCE = 10_000_000
"""Users drawn per block of the bootstrap; bounds its memory."""


def paired_interval(
    candidate_B: np.ndarray, champion_B: np.ndarray, settings: GateSettings
) -> tuple[float, float]:
    """Bootstrap interval of the candidate's mean gain, as a share of the champion's mean.

    Users are resampled with replacement, both models' values together (paired percentile
    bootstrap; Efron & Tibshirani 1993, ch. 13), and each resample's gain is a share of its own
    champion's mean: else the interval of a large gain would be too narrow. Where a resample has
    none, the mean of all users stands for it in every one; where that is 0, it is the plain gain.

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
    gains, champions = np.empty(settings.num_resamples), np.empty(settings.num_resamples)
    for start in range(0, settings.num_resamples, block):
        stop = min(start + block, settings.num_resamples)
        users = generator.integers(len(gains_B), size=(stop - start, len(gains_B)))
        gains[start:stop] = gains_B[users].mean(axis=1)
        champions[start:stop] = champion_B[users].mean(axis=1)
    shares = gains / (champions if champions.all() else champion_B.mean() or 1.0)
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Gain:
    """Of the candidate over the champion, as a share of the champion's value."""

    value: float
    interval: tuple[float, float]


def paired_gain(
    candidate_B: np.ndarray, champion_B: np.ndarray, settings: GateSettings
) -> Gain | None:
    """One model's gain over another, whatever the order of the users.

    None where one was not measured, or not on the same users, or not in finite numbers.
    """
    if not 0 < len(candidate_B) == len(champion_B):
        return None
    if not np.isfinite(candidate_B + champion_B).all():
        return None
    order_B = np.lexsort((candidate_B, champion_B))
    candidate_B, champion_B = candidate_B[order_B], champion_B[order_B]
    gain = float((candidate_B - champion_B).mean() / (champion_B.mean() or 1.0))
    return Gain(gain, paired_interval(candidate_B, champion_B, settings))


class Evidence:
    """Scorecards on one holdout, of some metrics and of no other weights than those compared."""

    def __init__(
        self,
        scorecards: pa.Table,
        metrics: Sequence[str],
        candidate: Version,
        champion: Version | None,
        *,
        exclude_seen: bool,
    ) -> None:
        is_wanted = pc.and_(
            pc.is_in(scorecards["metric"], pa.array(metrics)),
            pc.equal(scorecards["exclude_seen"], exclude_seen),
        )
        weights = {"candidate": candidate.weights_sha256}
        weights |= {CHAMPION: champion.weights_sha256} if champion else {}
        self.cards: dict[tuple[str, str], dict[str, Any]] = {
            (row["model"], row["metric"]): row
            for row in scorecards.filter(is_wanted).to_pylist()
            if row["model_digest"] == weights.get(row["model"], "")
        }

    def value(self, model: str, metric: str) -> float | None:
        """What a model reached; None where it was not measured."""
        card = self.cards.get((model, metric))
        return card["value"] if card else None

    def num_users(self, metric: str) -> int:
        """Users that the candidate or the champion was measured on; 0 where neither was."""
        cards = (self.cards.get((model, metric)) for model in ("candidate", CHAMPION))
        return max((card["num_users"] for card in cards if card), default=0)

    def num_holdouts(self) -> int:
        """Different holdouts among the scorecards."""
        return len({card["holdout_digest"] for card in self.cards.values()})

    def users(self, model: str, metric: str) -> np.ndarray:
        """The values by user, none where it was not measured. [B] float64."""
        card = self.cards.get((model, metric))
        return np.array(card["user_values"] if card else [], dtype=np.float64)

    def relative_gain(self, metric: str) -> float | None:
        """Of a catalogue-wide metric over the champion's; None where one was not measured."""
        of_candidate, of_champion = (self.value(m, metric) for m in ("candidate", CHAMPION))
        if of_candidate is None or of_champion is None:
            return None
        return (of_candidate - of_champion) / (of_champion or 1.0)

    def paired_gain(self, metric: str, settings: GateSettings) -> Gain | None:
        """Of a per-user metric over the champion; None where the two cannot be compared."""
        candidate_B, champion_B = (self.users(m, metric) for m in ("candidate", CHAMPION))
        return paired_gain(candidate_B, champion_B, settings)
