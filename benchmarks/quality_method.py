"""Quality method: which settings of soft targets and loss matter, by training, on validation alone.

One setting at a time changes from where the method's search begins (`DataSet.space`); the start
itself is trained with several seeds, which says what a difference means. Every training is a line
of `<root>/<data set>/settings.jsonl`; one that is in there is not repeated.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.quality_data import DataSet
from benchmarks.quality_roots import RunStage, run_stage
from benchmarks.quality_search import (
    Trial,
    append_trial,
    equal_settings,
    read_trials,
    refuse_other_settings,
    try_once,
)
from benchmarks.quality_space import METHOD, Changes, Choices
from benchmarks.report import markdown_table
from schemas.errors import UsageError

SETTINGS: Choices = {
    "training.lambda1": (0.0, 0.3, 0.6),
    "training.lambda2": (0.1, 0.3, 0.5, 0.8),
    "training.softness": ("falling", "constant"),
    "training.gamma": (0.0, 0.4, 0.8),
    "training.beta": (0.0, 0.5),
    "item_graph.normaliser": ("raw", "cosine"),
    "item_graph.direction": ("forward", "symmetric"),
    "item_graph.window": (1, 10, 50),
    "soft_targets.alpha": (0.1, 0.3, 0.5),
    "soft_targets.top_k": (20, 100),
}
"""What is compared, by dotted setting."""
TOGETHER: tuple[Changes, ...] = ({"training.gamma": 0.0, "training.beta": 0.5},)
"""What says something only together: without the item before, the user's row beside the item's."""
FILE = "settings.jsonl"
TABLE_FILE = "settings-{}.md"
"""The table, by backbone."""
SEEDS = (1, 2, 3)
"""Of the start; everything else has the first."""
HEADINGS = ("changed", "validation ndcg@10", "against the start", "best epoch", "seconds")


def compare_settings(data: DataSet, root: Path, backbone: str, run: RunStage = run_stage) -> str:
    """Trains the start and every variant of it, and compares them; returns Markdown.

    Args:
        data: A data set that is prepared.
        root: Of all data sets. The table is written to `<root>/<data set>`, too.
        backbone: As in `training.backbone`.
        run: Runs a stage.

    Raises:
        UsageError: Settings are others than those of earlier trials, or a start ends with an error.
    """
    refuse_other_settings(data, root)
    home = data.home(root)
    done = [*read_trials(home), *read_trials(home, FILE)]
    equal = equal_settings(data, root, data.load_settings(root))

    def trained(changes: Changes, seed: int) -> Trial:
        sought = (backbone, METHOD, seed, changes, equal)
        for one in done:
            if (one.backbone, one.loss, one.seed, one.changes, one.equal) == sought:
                return one
        trial = try_once(data, root, (backbone, METHOD, seed, len(done)), changes, run)
        append_trial(home / FILE, trial)
        done.append(trial)
        print(f"{data.name} {backbone} {asdict(trial)}", flush=True)
        return trial

    _, (start, *_) = data.space(backbone, METHOD)
    of_start = [trained(start, seed) for seed in SEEDS]
    if errors := [trial.error for trial in of_start if trial.error]:
        fix = f"begin elsewhere in benchmarks/quality_data.py, and move {home / FILE} away"
        raise UsageError(f"a start that ends with {errors[0]}", "one that trains to its end", fix)
    values = [trial.validation_ndcg_10 for trial in of_start]
    rows = [
        (
            f"(nothing), mean of {len(SEEDS)} seeds",
            f"{np.mean(values):.4f}",
            f"±{np.std(values, ddof=1) / np.mean(values):.1%} from seed to seed",
            ", ".join(str(trial.best_epoch) for trial in of_start),
            f"{np.mean([trial.seconds for trial in of_start]):.0f}",
        )
    ]
    for changes in variants(data, root, start):
        trial = trained(start | changes, SEEDS[0])
        difference = trial.validation_ndcg_10 / values[0] - 1
        about = ", ".join(f"{key.split('.')[1]} {value}" for key, value in changes.items())
        found = f"{trial.validation_ndcg_10:.4f}", trial.error or f"{difference:+.1%}"
        rows.append((about, *found, str(trial.best_epoch), f"{trial.seconds:.0f}"))
    text = "\n".join(markdown_table(HEADINGS, rows)) + "\n"
    (home / TABLE_FILE.format(backbone)).write_text(text)
    return text


def variants(data: DataSet, root: Path, start: Changes) -> Iterator[Changes]:
    """Every other value of every setting alone, then what says something only together."""
    values = data.load_settings(root).dotted(*{name.split(".")[0] for name in SETTINGS}) | start
    for name, choices in SETTINGS.items():
        yield from ({name: value} for value in choices if value != values[name])
    for changes in TOGETHER:
        if all(value != values[name] for name, value in changes.items()):
            yield changes
