"""Quality search: scripted local search on validation, every trial recorded in a file.

`<root>/<data set>/trials.jsonl` gets a line per trial; a trial that is in there is not repeated.
Losses take turns, so that a search that runs out of time has tried each as often.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmarks.quality_data import DataSet
from benchmarks.quality_roots import RunStage, run_stage, soft_root
from benchmarks.quality_space import Changes, changed, next_changes
from benchmarks.quality_training import train
from schemas.errors import DataError, UsageError
from schemas.partitions import get
from schemas.sequences import SEQUENCES
from schemas.settings import Settings, load
from trainer.backbones import Backbone
from trainer.checkpointing import ResumeState
from trainer.losses import USE_SOFT_TARGETS

TRIALS_FILE = "trials.jsonl"
SEARCHED_WITH = "searched_with.json"
"""What the data set's file and the code's defaults said when the first trial was made."""
EQUAL = (
    "epochs",
    "patience",
    "schedule",
    "width",
    "num_blocks",
    "history_skip",
    "max_length",
    "batch_size",
    "targets",
    "precision",
)
"""Training settings of the data set that all trials of a cell must share.

None is drawn, but for `epochs` where a data set has a choice of them.
"""
DECIDING = ("items", "sequences", "item_graph", "soft_targets", "training", "evaluation")
"""Sections that decide what a trial's model and its numbers are."""
INDIFFERENT = ("training.num_threads", *(f"training.{name}" for name in EQUAL))
"""Settings that change nothing, and those that are recorded anyway."""
SECONDS_PER_HOUR = 3600
DIGEST_LENGTH = 12


@dataclass(frozen=True)
class Trial:
    """One line of the file: what was tried, and what validation said.

    `equal` is what must be the same for all trials that are compared: `EQUAL`, whether seen items
    are ranked, the sealed sequences' digest, and what the environment overrides. `error` is empty
    unless the training ended with one; then the trial counts with validation 0.
    """

    backbone: str
    loss: str
    seed: int
    number: int
    changes: Changes
    equal: dict[str, Any]
    validation_ndcg_10: float
    best_epoch: int
    num_epochs: int
    seconds: float
    error: str = ""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What makes a trial the same one."""
        return self.backbone, self.loss, self.seed, self.number

    def model(self, seed: int) -> str:
        """The name of these settings' model with a seed; the same model is not made twice."""
        return model_name(self.backbone, self.loss, seed, self.changes, self.equal)


def model_name(
    backbone: str, loss: str, seed: int, changes: Changes, equal: Mapping[str, Any]
) -> str:
    """What names a model: two that differ in anything have different names."""
    text = json.dumps([changes, equal], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
    return f"{backbone}-{loss}-{digest}-{seed}"


def read_trials(home: Path, name: str = TRIALS_FILE) -> list[Trial]:
    """All recorded trials of a data set, oldest first."""
    file = home / name
    lines = file.read_text().splitlines() if file.exists() else []
    return [Trial(**json.loads(line)) for line in lines]


def search(
    data: DataSet,
    root: Path,
    backbone: str,
    losses: Sequence[str],
    num_trials: int,
    seed: int,
    hours: float = float("inf"),
    run: RunStage = run_stage,
) -> None:
    """Tries settings of each loss until each has `num_trials`, or the time is over.

    Args:
        data: A data set that is prepared.
        root: Of all data sets.
        backbone: As in `training.backbone`.
        losses: They take turns; time is looked at between rounds only.
        num_trials: Of each loss, those in the file included.
        seed: Of what is drawn and of every training.
        hours: After which no new round begins.
        run: Runs a stage.

    Raises:
        UsageError: The file has another trial under the same number: the space has changed; or
            settings are others than those of earlier trials.
    """
    refuse_other_settings(data, root)
    home, until = data.home(root), time.monotonic() + hours * SECONDS_PER_HOUR
    done = {trial.key: trial for trial in read_trials(home)}
    tried: dict[str, list[tuple[Changes, float]]] = {loss: [] for loss in losses}
    settings = data.load_settings(root)
    for number in range(num_trials):
        if time.monotonic() >= until:
            print(f"{data.name} {backbone}: time is over before trial {number}", flush=True)
            return
        for loss in losses:
            changes = next_changes(loss, seed, tried[loss], *data.space(backbone, loss))
            trial = done.get((backbone, loss, seed, number))
            if trial is None:
                trial = try_once(data, root, (backbone, loss, seed, number), changes, run)
                append_trial(home / TRIALS_FILE, trial)
                print(_line(data, trial), flush=True)
            elif (trial.changes, trial.equal) != (changes, equal_settings(data, root, settings)):
                raise UsageError(
                    f"another trial {number} of {backbone} with {loss}, seed {seed}",
                    "the same settings, data and search space as when it was recorded",
                    f"another --seed, or move {home / TRIALS_FILE} away",
                )
            tried[loss].append((changes, trial.validation_ndcg_10))


def refuse_other_settings(data: DataSet, root: Path) -> None:
    """Refuses a root whose trials were made with other settings of the file, or other defaults.

    What environment variables say is recorded with each trial (`equal_settings`).

    Raises:
        UsageError: Naming what differs.
    """
    file, now = data.home(root) / SEARCHED_WITH, load(data.settings_file(root), {})
    used = {n: v for n, v in now.dotted(*DECIDING).items() if n not in INDIFFERENT}
    if not file.exists():
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(used, indent=1))
        unfinished.replace(file)
    then = json.loads(file.read_text())
    if names := sorted(n for n in then.keys() & used.keys() if then[n] != used[n]):
        found = ", ".join(f"{name} = {used[name]!r} instead of {then[name]!r}" for name in names)
        raise UsageError(
            found, f"what {file} has of the first trial", "these settings, or a new --root"
        )


def try_once(
    data: DataSet, root: Path, key: tuple[str, str, int, int], changes: Changes, run: RunStage
) -> Trial:
    """Trains once with these changes and records validation; an exploding loss is a result."""
    equal = equal_settings(data, root, data.load_settings(root))
    settings = trial_settings(data.load_settings(root), *key[:3], changes)
    train_in = training_root(data, root, settings, run)
    name = model_name(*key[:3], changes, equal)
    resume = ResumeState(data.home(root) / "resume" / name / "state.pt")
    started = time.monotonic()
    try:
        trained = train(train_in, data.ds, settings, resume)
    except DataError as error:
        resume.remove()
        seconds = round(time.monotonic() - started, 1)
        return Trial(*key, changes, equal, 0.0, 0, 0, seconds, str(error))
    numbers = (trained.validation_ndcg_10, trained.best_epoch, trained.num_epochs, trained.seconds)
    trial = Trial(*key, changes, equal, *numbers)
    _keep(model_file(data.home(root), trial), trained.backbone)
    return trial


def model_file(home: Path, trial: Trial) -> Path:
    """Where a trial's trained model is kept, for its score."""
    return home / "models" / f"{trial.model(trial.seed)}.safetensors"


def trial_settings(
    settings: Settings, backbone: str, loss: str, seed: int, changes: Changes
) -> Settings:
    """A data set's settings with a trial's."""
    own = {"training.backbone": backbone, "training.loss": loss, "training.seed": seed}
    return changed(settings, own | changes)


def training_root(data: DataSet, root: Path, settings: Settings, run: RunStage) -> Path:
    """The root to train in: with soft targets of these settings only for a loss that reads them."""
    if settings.training.loss in USE_SOFT_TARGETS:
        return soft_root(data, root, settings, run)
    return data.home(root) / "sealed"


def equal_settings(data: DataSet, root: Path, settings: Settings) -> dict[str, Any]:
    """What all trials that are compared must share."""
    sealed = get(data.home(root) / "sealed", SEQUENCES, data.ds)
    values = settings.training.model_dump(include=set(EQUAL))
    values |= {"exclude_seen": settings.evaluation.exclude_seen}
    values |= {"sequences_digest": sealed.manifest.content_digest}
    if overridden := overrides(data, root):
        values["overridden"] = overridden
    return values


def overrides(data: DataSet, root: Path) -> dict[str, Any]:
    """Settings that environment variables give other values than the data set's file does."""
    own, used = load(data.settings_file(root), {}), data.load_settings(root)
    found = used.dotted(*DECIDING).items() - own.dotted(*DECIDING).items()
    return {name: value for name, value in sorted(found) if name not in INDIFFERENT}


def best_trials(trials: Sequence[Trial], backbone: str, losses: Sequence[str]) -> dict[str, Trial]:
    """The trial with the best validation NDCG@10 of each loss; the earlier one of two equals.

    Raises:
        UsageError: The losses' budgets differ: in number, in search seeds, or in `equal`.
    """
    of_loss = {
        loss: [t for t in trials if (t.backbone, t.loss) == (backbone, loss)] for loss in losses
    }
    budgets = {loss: sorted((t.seed, t.number) for t in of_loss[loss]) for loss in losses}
    equals = [trial.equal for found in of_loss.values() for trial in found]
    if not equals or any(b != budgets[losses[0]] for b in budgets.values()):
        counts = ", ".join(f"{len(found)} trials of {loss}" for loss, found in of_loss.items())
        fix = "python -m benchmarks.quality search with all losses, the same --seed and --trials"
        raise UsageError(f"{counts} with {backbone}", "the same trials of every loss", fix)
    if any(equal != equals[0] for equal in equals):
        expected = f"trials with the same data, overridden settings, {', '.join(EQUAL)}"
        raise UsageError(f"different budgets with {backbone}", expected, "a new root")
    best = {loss: max(found, key=lambda t: t.validation_ndcg_10) for loss, found in of_loss.items()}
    for loss, trial in best.items():
        if trial.error:
            raise UsageError(f"no trial of {loss} without error", "one at least", "--trials")
    return best


def append_trial(file: Path, trial: Trial) -> None:
    """Records a trial, durably."""
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(trial)) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def _keep(file: Path, backbone: Backbone) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    save_file(backbone.state_dict(), unfinished)
    unfinished.replace(file)


def _line(data: DataSet, trial: Trial) -> str:
    about = f"{data.name} {trial.backbone} {trial.loss} trial {trial.number}"
    result = trial.error or f"validation ndcg@10 {trial.validation_ndcg_10:.4f}"
    return f"{about}: {result} in epoch {trial.best_epoch}, {trial.seconds:.0f} s, {trial.changes}"
