"""Quality cells: a data set with a backbone, its losses' best trials, and the method's gains.

Per-user values are averaged over seeds first; the interval of the relative gain is the gate's, a
paired bootstrap over users. By each metric the opponent is the baseline with the higher mean on the
holdout itself, the harder of the two choices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.quality_data import DATA_SETS, DataSet
from benchmarks.quality_scores import ALONE, Score, alone, scores_of
from benchmarks.quality_search import Trial, best_trials, read_trials
from benchmarks.quality_space import BASELINES, LOSSES, METHOD
from benchmarks.quality_training import PARTS
from schemas.errors import UsageError
from schemas.settings import GateSettings
from trainer.evidence import paired_interval


@dataclass(frozen=True)
class Cell:
    """A data set with a backbone: each loss's best trial, all trials, and scores by seed."""

    data: DataSet
    backbone: str
    trials: dict[str, Trial]
    tried: Sequence[Trial]
    scores: dict[str, list[Score]]

    @property
    def name(self) -> str:
        """Such as beauty, sasrec."""
        return f"{self.data.name}, {self.backbone}"

    @property
    def part(self) -> str:
        """What the data set's protocol ranks: all items, or those new to the user."""
        return PARTS[self.trials[METHOD].equal["exclude_seen"]]

    def by_seed(self, loss: str, metric: str, part: str = "") -> list[float]:
        """Means over users."""
        values = [one.values[f"{part or self.part}/{metric}"] for one in self.scores[loss]]
        return [float(of_users.mean(dtype=np.float64)) for of_users in values]

    def mean(self, loss: str, metric: str, part: str = "") -> float:
        """The mean over users and seeds."""
        return float(np.mean(self.by_seed(loss, metric, part)))

    def of_users(self, loss: str, metric: str, part: str = "") -> np.ndarray:
        """The mean over seeds of each user. [B]"""
        found = [one.values[f"{part or self.part}/{metric}"] for one in self.scores[loss]]
        return np.asarray(np.mean(found, axis=0, dtype=np.float64))

    def opponent(self, metric: str, part: str = "") -> str:
        """The baseline that is harder to beat by a metric."""
        return max(BASELINES, key=lambda loss: self.mean(loss, metric, part))

    @property
    def scored_share(self) -> float:
        """Users with something to find, of those with a sequence: others' items never train."""
        (one, *_) = self.scores[METHOD]
        return len(one.values[f"{self.part}/ndcg@10"]) / one.facts["num_users"]


@dataclass(frozen=True)
class Gain:
    """The method against another loss of a cell by one metric, on what `part` ranks."""

    cell: Cell
    metric: str
    other: str
    part: str

    @property
    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Per-user values of method and opponent. [B] each"""
        ours, theirs = (
            self.cell.of_users(loss, self.metric, self.part) for loss in (METHOD, self.other)
        )
        return ours, theirs

    @property
    def relative(self) -> float:
        """Of the other's mean."""
        ours, theirs = self.means
        return ours / theirs - 1

    @property
    def means(self) -> tuple[float, float]:
        """The method's, and the other's."""
        ours, theirs = (self.cell.mean(n, self.metric, self.part) for n in (METHOD, self.other))
        return ours, theirs

    @property
    def interval(self) -> tuple[float, float]:
        """Of the relative gain, 95 %."""
        return paired_interval(*self.pair, GateSettings())

    @property
    def verdict(self) -> str:
        """Win or loss where the interval leaves 0 out."""
        low, high = self.interval
        return "win" if low > 0 else "loss" if high < 0 else "open"

    @property
    def users(self) -> tuple[int, int]:
        """Users that the method ranks better for, and worse."""
        ours, theirs = self.pair
        return int((ours > theirs).sum()), int((ours < theirs).sum())


def read_cells(root: Path) -> tuple[list[Cell], list[str]]:
    """All cells that may be reported, and why others may not."""
    cells, refused = [], []
    for data in DATA_SETS.values():
        trials = read_trials(data.home(root))
        for backbone in dict.fromkeys(trial.backbone for trial in trials):
            try:
                cells.append(read_cell(data, root, backbone, trials))
            except UsageError as error:
                refused.append(f"{data.name}, {backbone}: {error}")
    return cells, refused


def read_cell(data: DataSet, root: Path, backbone: str, trials: Sequence[Trial]) -> Cell:
    """One cell from its files.

    Raises:
        UsageError: Losses were not tried as often, or not scored with the same seeds and holdout,
            or scoring has not ended.
    """
    best = best_trials(trials, backbone, LOSSES)
    scores = {loss: scores_of(data.home(root), trial) for loss, trial in best.items()}
    of_targets = scores_of(data.home(root), alone(best))
    keys = ("seed", "holdout_digest")
    same = {loss: [[s.facts[k] for k in keys] for s in found] for loss, found in scores.items()}
    fix = f"python -m benchmarks.quality score {data.name} --backbone {backbone}"
    if not same[METHOD] or any(facts != same[METHOD] for facts in same.values()):
        seeds = {loss: [seed for seed, _ in facts] for loss, facts in same.items()}
        raise UsageError(f"scores of seeds {seeds}", "the same seeds and holdout for all", fix)
    if not of_targets:
        raise UsageError("no score of the soft targets alone", "a scoring that has ended", fix)
    tried = [trial for trial in trials if trial.backbone == backbone]
    return Cell(data, backbone, best, tried, scores | {ALONE: of_targets})
