"""Quality scores: the best settings of each loss, trained with several seeds, on the holdout.

A model's per-user values are in `<root>/<data set>/scores/<backbone>-<loss>-<digest>-<seed>.npz`,
the digest being that of its settings: the same model is not scored twice. With the search's seed
it is the model that the search has trained.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality_data import DataSet
from benchmarks.quality_roots import RunStage, run_stage, soft_root
from benchmarks.quality_search import (
    Trial,
    best_trials,
    equal_settings,
    model_file,
    read_trials,
    refuse_other_settings,
    training_root,
    trial_settings,
)
from benchmarks.quality_space import METHOD
from benchmarks.quality_targets import led_to
from benchmarks.quality_training import PARTS, Trained, train, user_values
from schemas.errors import UsageError
from schemas.items import ITEMS
from schemas.partitions import get
from schemas.sequences import SEQUENCES
from schemas.settings import Settings
from trainer.checkpointing import ResumeState, restore
from trainer.holdout import holdout_of, score_holdout

ALONE = "soft_targets_alone"
"""In place of a loss: ranking by what the last item leads to, in the method's soft targets."""
FACTS = "facts"
"""The array of a file that holds everything but per-user values, as JSON."""


@dataclass(frozen=True)
class Score:
    """One trained model on the holdout.

    `facts` are the seed, the training's outcome, the holdout's digest and the number of users
    that have a sequence; `values` per-user arrays [B] by name, such as `all/ndcg@10`.
    """

    facts: dict[str, Any]
    values: dict[str, np.ndarray]


def score(
    data: DataSet,
    root: Path,
    backbone: str,
    losses: Sequence[str],
    seeds: Sequence[int],
    run: RunStage = run_stage,
) -> None:
    """Trains and scores each loss's best settings with each seed, where that is not done.

    Args:
        data: A data set that is searched.
        root: Of all data sets.
        backbone: As in `training.backbone`.
        losses: Those that are compared must have been tried as often; with the method among them,
            its soft targets are scored alone as well.
        seeds: Of the trainings.
        run: Runs a stage.

    Raises:
        UsageError: The losses' budgets differ, or settings and data are not those of the search.
    """
    refuse_other_settings(data, root)
    best = best_trials(read_trials(data.home(root)), backbone, losses)
    equal = equal_settings(data, root, data.load_settings(root))
    for trial in best.values():
        names = [n for n in {*equal, *trial.equal} if equal.get(n) != trial.equal.get(n)]
        if names:
            others = f"other {', '.join(sorted(names))} of {data.name} than its trials recorded"
            raise UsageError(others, "the same", "the variables PENUMBRA_…, or a new --root")
    for seed in seeds:
        for trial in best.values():
            file = score_file(data.home(root), trial, seed)
            if not file.exists():
                _write(file, score_once(data, root, trial, seed, run))
                found = read_score(file)
                means = {m: round(float(v.mean()), 4) for m, v in found.values.items() if "10" in m}
                about = f"{data.name} {backbone} {trial.loss} seed {seed}"
                print(f"{about}: holdout {means}", flush=True)
    if METHOD in best:
        of_targets = score_alone(data, root, best[METHOD], run)
        _write(score_file(data.home(root), alone(best), 0), of_targets)


def alone(best: Mapping[str, Trial]) -> Trial:
    """The method's best trial as the name of its soft targets' own score."""
    return replace(best[METHOD], loss=ALONE)


def score_alone(data: DataSet, root: Path, trial: Trial, run: RunStage) -> Score:
    """Ranks for the holdout's users by what their last item leads to in a trial's soft targets."""
    settings = data.load_settings(root)
    settings = trial_settings(settings, trial.backbone, trial.loss, 0, trial.changes)
    soft, night = soft_root(data, root, settings, run), data.home(root) / "night"
    sequences = get(night, SEQUENCES, data.ds)
    num_items = get(night, ITEMS, data.ds).manifest.rows
    values: dict[str, np.ndarray] = {}
    for exclude_seen, part in PARTS.items():
        holdout = holdout_of(sequences.read(), num_items, exclude_seen=exclude_seen)
        score = led_to(soft, data.ds, holdout)
        card = score_holdout(holdout, score, settings.evaluation.batch_size)
        values |= {f"{part}/{m}": of.astype(np.float32) for m, of in card.user_values.items()}
    facts = {"seed": 0, "holdout_digest": sequences.manifest.content_digest}
    return Score(facts, values)


def score_once(data: DataSet, root: Path, trial: Trial, seed: int, run: RunStage) -> Score:
    """Trains a trial's settings with a seed and ranks for the holdout's users."""
    home, night = data.home(root), data.home(root) / "night"
    settings = data.load_settings(root)
    settings = trial_settings(settings, trial.backbone, trial.loss, seed, trial.changes)
    num_items = get(night, ITEMS, data.ds).manifest.rows
    trained = kept_model(home, trial, settings, num_items) if seed == trial.seed else None
    if trained is None:
        resume = ResumeState(home / "resume" / f"score-{trial.model(seed)}" / "state.pt")
        trained = train(training_root(data, root, settings, run), data.ds, settings, resume)
    sequences = get(night, SEQUENCES, data.ds).manifest
    facts = {
        "seed": seed,
        "best_epoch": trained.best_epoch,
        "validation_ndcg_10": trained.validation_ndcg_10,
        "seconds": trained.seconds,
        "holdout_digest": sequences.content_digest,
        "num_users": sequences.rows,
    }
    return Score(facts, user_values(trained, night, data.ds, settings))


def kept_model(home: Path, trial: Trial, settings: Settings, num_items: int) -> Trained | None:
    """The model that the search made of a trial; None where it kept none."""
    file = model_file(home, trial)
    if not file.exists():
        return None
    numbers = (trial.best_epoch, trial.num_epochs, trial.validation_ndcg_10, trial.seconds)
    return Trained(restore(settings.training, num_items, file), *numbers)


def score_file(home: Path, trial: Trial, seed: int) -> Path:
    """Where a trial's model with a seed is kept."""
    return home / "scores" / f"{trial.model(seed)}.npz"


def read_score(file: Path) -> Score:
    """A score as it was written; nothing in it is executed."""
    with np.load(file, allow_pickle=False) as arrays:
        values = {name: arrays[name] for name in arrays.files if name != FACTS}
        return Score(json.loads(str(arrays[FACTS])), values)


def scores_of(home: Path, trial: Trial) -> list[Score]:
    """All seeds' scores of a trial, by seed."""
    pattern = score_file(home, trial, 0).stem.removesuffix("-0")
    found = map(read_score, (home / "scores").glob(f"{pattern}-*.npz"))
    return sorted(found, key=lambda one: one.facts["seed"])


def _write(file: Path, one: Score) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    with unfinished.open("wb") as opened:
        np.savez(opened, **{FACTS: np.array(json.dumps(one.facts))}, **one.values)  # type: ignore[arg-type]
    unfinished.replace(file)
