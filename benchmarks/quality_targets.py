"""Quality targets: which soft targets know what users do next, before any model is trained.

Validation items among a row's entries, beside as many of the most popular items, as the manifest
of soft_targets counts them; the holdout is never looked at. Settings change one at a time from
the first choice of everything in `SOFT_TARGETS`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.quality_data import DataSet
from benchmarks.quality_roots import RunStage, run_stage, soft_root
from benchmarks.quality_space import SOFT_TARGETS, Changes, changed, first_choices
from benchmarks.report import markdown_table
from schemas.partitions import get
from schemas.soft_targets import SOFT_TARGETS as TABLE

HEADINGS = ("changed", "rows", "hit rate", "popular", "new: hit rate", "new: popular", "seed mass")
"""Shares of validation items among entries, and among as many popular items; then of those new to
the user; then the mass that stays on the seed."""
TARGETS_FILE = "targets.md"


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
        notes = get(soft_root(data, root, settings, run), TABLE, data.ds).manifest.notes
        about = ", ".join(f"{key.split('.')[1]} {value}" for key, value in changes.items())
        rows += [(about or "(nothing)", kind, *_cells(notes[kind])) for kind in ("item", "user")]
    text = "\n".join(markdown_table(HEADINGS, rows)) + "\n"
    (data.home(root) / TARGETS_FILE).write_text(text)
    return text


def variants() -> Iterator[Changes]:
    """Nothing changed, then every other value of every setting alone."""
    yield {}
    for name, (_, *others) in SOFT_TARGETS.items():
        yield from ({name: value} for value in others)


def _cells(notes: dict[str, Any]) -> list[str]:
    found = [notes[part] for part in ("validation", "validation_new_to_user")]
    rates = [part[name] for part in found for name in ("hit_rate", "popular_hit_rate")]
    return [f"{rate:.4f}" for rate in (*rates, notes["mean_seed_mass"])]
