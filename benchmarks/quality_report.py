"""Quality report: every cell's means, the method's gains with intervals, wins and losses.

A cell is a data set with a backbone. Per-user values are averaged over seeds first; the interval
of the relative gain is the gate's, a paired bootstrap over users. The opponent is the baseline
with the higher mean on the holdout itself, the harder of the two choices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import report
from benchmarks.quality_data import DATA_SETS, DataSet
from benchmarks.quality_scores import ALONE, Score, alone, scores_of
from benchmarks.quality_search import Trial, best_trials, read_trials
from benchmarks.quality_space import BASELINES, LOSSES, METHOD
from benchmarks.quality_training import PARTS
from benchmarks.report import Finding, markdown_table
from schemas.errors import UsageError
from schemas.settings import GateSettings
from trainer.backbones import BACKBONES
from trainer.evidence import paired_interval
from trainer.page import counted

PACKAGES = ("torch", "numpy", "pyspark")
SHOWN = ("ndcg@10", "recall@10", "recall@20")
COMPARED = ("ndcg@10", "recall@10")
FEWEST_SEEDS = 3
"""A cell with fewer is marked as provisional."""
NUM_CELLS = len(DATA_SETS) * len(BACKBONES)
ANCHORS = {
    "SASRec, cross-entropy": (0.1779, 0.3058),
    "SASRec, cross-entropy, another source": (0.1821, 0.3152),
    "SASRec+, 3000 negatives": (0.1857, 0.3159),
    "gSASRec": (0.1726, 0.3003),
    "GRU4Rec, cross-entropy": (0.1648, 0.2811),
    "HSTU-large": (0.1893, 0.3294),
}
"""Published NDCG@10 and Recall@10 on MovieLens-1M, leave-one-out, whole catalogue."""
REACHES = {
    ("ml1m", "sasrec", "cross_entropy"): 0.178,
    ("ml1m", "gru4rec", "cross_entropy"): 0.160,
    ("beauty", "sasrec", "cross_entropy"): 0.0414,
    ("beauty", "sasrec", "label_smoothing"): 0.0433,
    ("beauty", "gru4rec", "cross_entropy"): 0.0414,
    ("beauty", "gru4rec", "label_smoothing"): 0.0433,
    ("ml1m", "sasrec", METHOD): 0.189,
}
"""NDCG@10 that a baseline must reach before a gain over it means anything; the method's goal."""


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

    def of_users(self, loss: str, metric: str) -> np.ndarray:
        """The mean over seeds of each user. [B]"""
        found = [one.values[f"{self.part}/{metric}"] for one in self.scores[loss]]
        return np.asarray(np.mean(found, axis=0, dtype=np.float64))

    @property
    def opponent(self) -> str:
        """The baseline that is harder to beat."""
        return max(BASELINES, key=lambda loss: self.mean(loss, "ndcg@10"))

    @property
    def scored_share(self) -> float:
        """Users with something to find, of those with a sequence: others' items never train."""
        (one, *_) = self.scores[METHOD]
        return len(one.values["all/ndcg@10"]) / one.facts["num_users"]


@dataclass(frozen=True)
class Gain:
    """The method against another loss of a cell by one metric."""

    cell: Cell
    metric: str
    other: str

    @property
    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Per-user values of method and opponent. [B] each"""
        ours, theirs = METHOD, self.other
        return self.cell.of_users(ours, self.metric), self.cell.of_users(theirs, self.metric)

    @property
    def relative(self) -> float:
        """Of the other's mean."""
        theirs = self.cell.mean(self.other, self.metric)
        return self.cell.mean(METHOD, self.metric) / theirs - 1

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


@dataclass(frozen=True)
class QualityReport(report.Report):
    """A run of the quality benchmark."""

    name: ClassVar[str] = "quality"
    title: ClassVar[str] = "Decoupled soft targets against cross-entropy and label smoothing"

    def run_lines(self) -> list[str]:
        """Means of every loss in every cell, the gains, and the published numbers."""
        losses = [
            (
                run["on"],
                run["loss"],
                *(f"{run['means'][metric]:.4f}" for metric in SHOWN),
                " ".join(f"{value:.4f}" for value in run["ndcg@10_by_seed"]),
                str(run["num_trials"]),
                ", ".join(f"{key.split('.')[1]} {value}" for key, value in run["changes"].items()),
            )
            for run in self.runs
        ]
        heads = ("on", "loss", *SHOWN, "ndcg@10 by seed", "trials", "settings")
        anchors = [(name, *(f"{v:.4f}" for v in values)) for name, values in ANCHORS.items()]
        return [
            "Means over users and seeds of the settings that validation chose:",
            "",
            *markdown_table(heads, losses),
            "",
            "Published on MovieLens-1M:",
            "",
            *markdown_table(("model", *COMPARED), anchors),
        ]


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
        UsageError: Losses were not tried as often, or not scored with the same seeds and holdout.
    """
    best = best_trials(trials, backbone, LOSSES)
    scores = {loss: scores_of(data.home(root), trial) for loss, trial in best.items()}
    of_targets = scores_of(data.home(root), alone(best))
    keys = ("seed", "holdout_digest")
    same = {loss: [[s.facts[k] for k in keys] for s in found] for loss, found in scores.items()}
    if not same[METHOD] or any(facts != same[METHOD] for facts in same.values()):
        seeds = {loss: [seed for seed, _ in facts] for loss, facts in same.items()}
        fix = f"python -m benchmarks.quality score {data.name} --backbone {backbone}"
        raise UsageError(f"scores of seeds {seeds}", "the same seeds and holdout for all", fix)
    tried = [trial for trial in trials if trial.backbone == backbone]
    return Cell(data, backbone, best, tried, scores | {ALONE: of_targets})


def build(cells: Sequence[Cell], surroundings: dict[str, Any]) -> QualityReport:
    """The report of some cells."""
    findings = [f for cell in cells for f in (*_reached(cell), *_gains(cell))]
    runs = [run for cell in cells for run in (*(_run(cell, n) for n in LOSSES), _run_alone(cell))]
    return QualityReport(surroundings, findings + _tally(cells), runs)


def _reached(cell: Cell) -> Iterator[Finding]:
    """Losses against what they must reach; users whose item never trains count as misses."""
    for loss in LOSSES:
        reach = REACHES.get((cell.data.name, cell.backbone, loss))
        if reach is not None:
            found = cell.mean(loss, "ndcg@10") * cell.scored_share
            what, ours, other = f"{loss}: ndcg@10 of all users", f"{found:.4f}", f"{reach:.4f}"
            yield Finding(cell.name, what, ours, other, 100 * found, "%", 100 * reach, True)


def _gains(cell: Cell) -> Iterator[Finding]:
    num_seeds = len(cell.scores[METHOD])
    seeds = counted(num_seeds, "seed")
    note = "" if num_seeds >= FEWEST_SEEDS else f", provisional: {seeds}"
    pairs = [(metric, other) for other in (cell.opponent, ALONE) for metric in COMPARED]
    for metric, other in pairs:
        gain = Gain(cell, metric, other)
        low, high = gain.interval
        better, worse = gain.users
        interval = f"{low:+.1%} to {high:+.1%}, {better:,} users better, {worse:,} worse"
        what = f"{METHOD} against {other}, {metric}: {gain.verdict} ({interval}{note})"
        ours, theirs = (f"{cell.mean(loss, metric):.4f}" for loss in (METHOD, other))
        yield Finding(cell.name, what, ours, theirs, 100 * gain.relative, "%")


def _tally(cells: Sequence[Cell]) -> list[Finding]:
    verdicts = [Gain(cell, "ndcg@10", cell.opponent).verdict for cell in cells]
    wins, losses = verdicts.count("win"), verdicts.count("loss")
    what = f"cells that {METHOD} wins by ndcg@10, and loses; {NUM_CELLS} are to be compared"
    return [Finding("all", what, f"{wins} of {len(cells)}", f"{losses} lost", wins, " wins")]


def _means(cell: Cell, loss: str) -> dict[str, Any]:
    return {
        "on": cell.name,
        "loss": loss,
        "ranked": cell.part,
        "means": {metric: cell.mean(loss, metric) for metric in SHOWN},
        "means_of_all_items": {metric: cell.mean(loss, metric, "all") for metric in SHOWN},
        "ndcg@10_by_seed": cell.by_seed(loss, "ndcg@10"),
        "scored_share": cell.scored_share,
    }


def _run_alone(cell: Cell) -> dict[str, Any]:
    return _means(cell, ALONE) | {"num_trials": 0, "changes": {}}


def _run(cell: Cell, loss: str) -> dict[str, Any]:
    trial, found = cell.trials[loss], cell.scores[loss]
    tried = [asdict(one) for one in cell.tried if one.loss == loss]
    return _means(cell, loss) | {
        "num_trials": len(tried),
        "search_seed": trial.seed,
        "validation_ndcg@10": trial.validation_ndcg_10,
        "changes": trial.changes,
        "equal": trial.equal,
        "by_seed": [one.facts for one in found],
        "trials": tried,
    }
