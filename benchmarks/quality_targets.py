"""Quality targets: what soft targets know of what users do next, without any model.

Two measures on validation: how often an item is among a row's entries, beside as many of the most
popular items, as the manifest of soft_targets counts them; and NDCG@10 of a ranking by what the
user's last item leads to. Settings change one at a time from the first choice of everything in
`SOFT_TARGETS`.
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality_data import DataSet
from benchmarks.quality_roots import RunStage, run_stage, soft_root
from benchmarks.quality_space import SOFT_TARGETS, Changes, changed, first_choices
from benchmarks.report import markdown_table
from schemas.items import ITEMS
from schemas.partitions import get
from schemas.sequences import SEQUENCES
from schemas.settings import TrainingSettings
from schemas.soft_targets import SOFT_TARGETS as TABLE
from trainer.baselines import ScoreUsers
from trainer.holdout import Holdout, score_holdout
from trainer.soft_targets import from_batches
from trainer.validation import validation_of

HEADINGS = ("changed", "item rows", "user rows", "popular", "seed mass", "ndcg@10")
"""Share of validation items among entries of the last item's row, of the user's row, and among as
many popular items; mass that item rows keep on their seed; NDCG@10 of the ranking."""
TARGETS_FILE = "targets.md"
BATCH_SIZE = 256
"""Users ranked at once."""


def compare_targets(data: DataSet, root: Path, run: RunStage = run_stage) -> str:
    """Makes the soft targets of all variants and compares them; returns Markdown.

    Args:
        data: A data set that is prepared.
        root: Of all data sets. The table is written to `<root>/<data set>/targets.md`, too.
        run: Runs a stage.
    """
    rows = []
    for changes in variants():
        settings = changed(data.load_settings(root), first_choices(SOFT_TARGETS) | changes)
        made = soft_root(data, root, settings, run)
        about = ", ".join(f"{key.split('.')[1]} {value}" for key, value in changes.items())
        sequences = get(made, SEQUENCES, data.ds).read()
        exclude_seen = settings.evaluation.exclude_seen
        num_items = get(made, ITEMS, data.ds).manifest.rows
        validation = validation_of(sequences, num_items, exclude_seen=exclude_seen)
        ranked = score_holdout(validation, led_to(made, data.ds, validation), BATCH_SIZE)
        notes = get(made, TABLE, data.ds).manifest.notes
        item, user = (notes[kind]["validation"] for kind in ("item", "user"))
        rates = item["hit_rate"], user["hit_rate"], item["popular_hit_rate"]
        numbers = *rates, notes["item"]["mean_seed_mass"], ranked.user_values["ndcg@10"].mean()
        rows.append((about or "(nothing)", *(f"{number:.4f}" for number in numbers)))
    text = "\n".join(markdown_table(HEADINGS, rows)) + "\n"
    (data.home(root) / TARGETS_FILE).write_text(text)
    return text


def led_to(root: Path, ds: date, holdout: Holdout) -> ScoreUsers:
    """Scores items by the row of the user's last item, without that item: γ's part of q alone.

    Args:
        root: With items and soft targets.
        ds: The night.
        holdout: Whose users are scored.
    """
    items = get(root, ITEMS, ds).read(("item_index", "item_id"))
    rows = get(root, TABLE, ds).batches()
    others = from_batches(rows, items, (), TrainingSettings(beta=0.0)).others

    def score(users: np.ndarray) -> Tensor:
        last_B1, _ = holdout.histories.take(users).last(1)
        items_BK, masses_BK = others.at(torch.from_numpy(last_B1[:, 0]))
        scores_BV = torch.zeros(len(users), holdout.num_items + 1)
        return scores_BV.scatter_add_(1, items_BK.long(), masses_BK)

    return score


def variants() -> Iterator[Changes]:
    """Nothing changed, then every other value of every setting alone."""
    yield {}
    for name, (_, *others) in SOFT_TARGETS.items():
        yield from ({name: value} for value in others)
