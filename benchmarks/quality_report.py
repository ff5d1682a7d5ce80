"""Quality report: every cell's means, the method's gains with intervals, wins and losses.

A cell that only an earlier report has stays in it as it was: trainings take hours, and the files
they left are not kept as long as their numbers.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import report
from benchmarks.quality_cells import Cell, Gain
from benchmarks.quality_data import DATA_SETS
from benchmarks.quality_scores import ALONE
from benchmarks.quality_space import BASELINES, LOSSES, METHOD
from benchmarks.quality_training import PARTS
from benchmarks.report import Finding, markdown_table
from trainer.backbones import BACKBONES
from trainer.page import counted

PACKAGES = ("torch", "numpy", "pyspark")
SHOWN = ("ndcg@10", "recall@10", "recall@20")
COMPARED = ("ndcg@10", "recall@10")
FEWEST_SEEDS, FEWEST_TRIALS = 3, 2
"""A cell with fewer of either is marked as provisional."""
SUPERSEDED = "superseded by further trials or seeds, not complete yet"
"""Said of what an earlier report has of a cell that is at work; the tally leaves it out."""
CELL_HEADINGS = (
    "cell",
    *(loss.replace("_", " ") for loss in (*LOSSES, ALONE)),
    *(f"gain in {metric}" for metric in COMPARED),
    "seeds",
    "trials",
)
NUM_CELLS = len(DATA_SETS) * len(BACKBONES)
FEWEST_WINS, LEAST_GAIN = 9, 5.0
"""What is to be reached over all cells: wins, and the mean gain in percent."""
NEW = PARTS[True]
WORDS = {PARTS[False]: "all items", NEW: "items new to the user"}
ALL = "all"
"""What the tally of all cells is on."""
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
class QualityReport(report.Report):
    """A run of the quality benchmark."""

    name: ClassVar[str] = "quality"
    title: ClassVar[str] = "Decoupled soft targets against cross-entropy and label smoothing"

    def run_lines(self) -> list[str]:
        """A line a cell, the means of every loss in every cell, and the published numbers."""
        losses = [
            (
                run["on"],
                run["loss"],
                *(f"{run['means'][metric]:.4f}" for metric in SHOWN),
                " ".join(f"{value:.4f}" for value in run["ndcg@10_by_seed"]),
                str(run["num_trials"]),
                run["date"],
                ", ".join(f"{key.split('.')[1]} {value}" for key, value in run["changes"].items()),
            )
            for run in self.runs
        ]
        heads = ("on", "loss", *SHOWN, "ndcg@10 by seed", "trials", "date", "settings")
        anchors = [(name, *(f"{v:.4f}" for v in values)) for name, values in ANCHORS.items()]
        return [
            f"Every cell by {COMPARED[0]}, and the gain over the better baseline:",
            "",
            *markdown_table(CELL_HEADINGS, self.cell_rows()),
            "",
            "Means over users and seeds of the settings that validation chose:",
            "",
            *markdown_table(heads, losses),
            "",
            "Published on MovieLens-1M:",
            "",
            *markdown_table(("model", *COMPARED), anchors),
        ]

    def cell_rows(self) -> list[tuple[str, ...]]:
        """A row a cell, under `CELL_HEADINGS`."""
        by_loss = {(run["on"], run["loss"]): run for run in self.runs}
        rows = []
        for name in dict.fromkeys(run["on"] for run in self.runs):
            means = [by_loss[name, n]["means"][COMPARED[0]] for n in (*LOSSES, ALONE)]
            method = by_loss[name, METHOD]
            budget = len(method["by_seed"]), method["num_trials"]
            baselines = {loss: by_loss[name, loss]["means"] for loss in BASELINES}
            gains = (self._gain(name, metric, baselines) for metric in COMPARED)
            rows.append((name, *(f"{mean:.4f}" for mean in means), *gains, *map(str, budget)))
        return rows

    def _gain(self, cell: str, metric: str, baselines: Mapping[str, Mapping[str, float]]) -> str:
        """Over the better baseline with its interval and verdict, of what the cell ranks.

        Says so where an older report compared with the other one.
        """
        others = "|".join(BASELINES)
        says = re.compile(rf"{METHOD} against ({others}), {metric}: (\w+) \((.+?) to (.+?),")
        found = [(one.value, says.match(one.what)) for one in self.findings if one.on == cell]
        ((gain, said),) = [(value, match) for value, match in found if match]
        other, verdict, low, high = said.groups()
        is_better = baselines[other][metric] == max(m[metric] for m in baselines.values())
        note = "" if is_better else f", over {other.replace('_', ' ')}"
        note += ", superseded" if SUPERSEDED in said.string else ""
        return f"{gain:+.1f}% ({low} to {high}) {verdict}{note}"


def build(cells: Sequence[Cell], surroundings: dict[str, Any]) -> QualityReport:
    """The report of some cells."""
    findings = [f for cell in cells for f in (*_reached(cell), *_gains(cell))]
    runs = [run for cell in cells for run in (*(_run(cell, n) for n in LOSSES), _run_alone(cell))]
    dated = [run | {"date": surroundings["date"]} for run in runs]
    return QualityReport(surroundings, [*findings, *_tally(findings)], dated)


def with_recorded(
    found: QualityReport, folder: Path, at_work: Collection[str] = ()
) -> QualityReport:
    """The same report with the cells that only the one in a folder has, in the order of all.

    What it has already keeps its date.

    Args:
        found: The report of this root's cells.
        folder: Of the earlier report.
        at_work: Names of cells that this root has, unfit for a report: what is recorded of them
            says that more was tried since.
    """
    file = folder / f"{QualityReport.name}.json"
    if not file.exists():
        return found
    recorded = json.loads(file.read_text())
    known = {run["on"] for run in found.runs} | {ALL}
    old_findings = [_read_finding(one) for one in recorded["findings"] if one["on"] not in known]
    old_findings = [_superseded(one) if one.on in at_work else one for one in old_findings]
    old_runs = [run for run in recorded["runs"] if run["on"] not in known]
    findings = [*(one for one in found.findings if one.on != ALL), *old_findings]
    findings.sort(key=lambda one: _place(one.on))
    dates = {_undated(run): run["date"] for run in recorded["runs"]}
    new_runs = [run | {"date": dates.get(_undated(run), run["date"])} for run in found.runs]
    runs = sorted(new_runs + old_runs, key=lambda run: _place(run["on"]))
    return replace(found, findings=[*findings, *_tally(findings)], runs=runs)


def _superseded(found: Finding) -> Finding:
    is_gain = found.what.endswith(")") and SUPERSEDED not in found.what
    return replace(found, what=f"{found.what[:-1]}, {SUPERSEDED})") if is_gain else found


def _undated(run: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in run.items() if name != "date"})


def _read_finding(recorded: dict[str, Any]) -> Finding:
    return Finding(**{name: value for name, value in recorded.items() if name != "is_reached"})


def _place(name: str) -> tuple[int, int]:
    """Of a cell among all."""
    data_set, backbone = name.split(", ")
    return list(DATA_SETS).index(data_set), list(BACKBONES).index(backbone)


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
    num_trials = sum(one.loss == METHOD for one in cell.tried)
    is_sure = num_seeds >= FEWEST_SEEDS and num_trials >= FEWEST_TRIALS
    budget = f"{counted(num_seeds, 'seed')}, {counted(num_trials, 'trial')}"
    note = "" if is_sure else f", provisional: {budget}"
    (other_part,) = set(PARTS.values()) - {cell.part}
    pairs = [
        (metric, cell.opponent(metric, part), part)
        for part in (cell.part, other_part)
        for metric in COMPARED
    ]
    # A row of soft targets is asked for others than its own item: models, too, only there.
    pairs += [(metric, ALONE, NEW) for metric in COMPARED]
    for metric, other, part in pairs:
        gain = Gain(cell, metric, other, part)
        low, high = gain.interval
        better, worse = gain.users
        interval = f"{low:+.1%} to {high:+.1%}, {better:,} users better, {worse:,} worse"
        of = "" if part == cell.part else f" of {WORDS[part]}"
        what = f"{METHOD} against {other}, {metric}{of}: {gain.verdict} ({interval}{note})"
        ours, theirs = (f"{mean:.4f}" for mean in gain.means)
        yield Finding(cell.name, what, ours, theirs, 100 * gain.relative, "%")


def _tally(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Wins, losses and mean gain over the better baseline, one such finding a cell.

    What is to be reached is asked of cells with enough seeds and trials alone.
    """
    findings = [one for one in findings if SUPERSEDED not in one.what]
    starts = [f"{METHOD} against {other}, ndcg@10: " for other in BASELINES]
    gains = [
        (one.what.removeprefix(start), one.value)
        for one in findings
        for start in starts
        if one.what.startswith(start)
    ]
    sure = [(what, value) for what, value in gains if "provisional" not in what]
    what = f"cells that {METHOD} wins by ndcg@10, and loses; {NUM_CELLS} are to be compared"
    won, lost = _counted(gains, "win"), f"{_counted(gains, 'loss')} lost"
    yield Finding(ALL, what, f"{won} of {len(gains)}", lost, won, " wins")
    of_sure = f"with {FEWEST_SEEDS} seeds and {FEWEST_TRIALS} trials"
    won, lost = _counted(sure, "win"), f"{_counted(sure, 'loss')} lost"
    ours = f"{won} of {len(sure)}"
    yield Finding(ALL, f"those {of_sure}", ours, lost, won, " wins", FEWEST_WINS, True)
    what = f"mean gain of {METHOD} in ndcg@10"
    yield Finding(ALL, what, f"of {len(gains)} cells", "", _mean(gains), "%")
    ours = f"of {len(sure)} cells"
    reach = LEAST_GAIN if len(sure) == NUM_CELLS else None  # which some cells do not decide
    yield Finding(ALL, f"that of those {of_sure}", ours, "", _mean(sure), "%", reach, True)


def _counted(gains: Sequence[tuple[str, float]], verdict: str) -> int:
    return sum(what.startswith(verdict) for what, _ in gains)


def _mean(gains: Sequence[tuple[str, float]]) -> float:
    return float(np.mean([value for _, value in gains])) if gains else 0.0


def _means(cell: Cell, loss: str) -> dict[str, Any]:
    return {
        "on": cell.name,
        "loss": loss,
        "ranked": cell.part,
        "means": {metric: cell.mean(loss, metric) for metric in SHOWN},
        "means_of_all_items": {metric: cell.mean(loss, metric, "all") for metric in SHOWN},
        "means_of_new_items": {metric: cell.mean(loss, metric, NEW) for metric in SHOWN},
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
