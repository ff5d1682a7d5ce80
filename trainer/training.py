"""Training: one checkpoint per night, trained on tonight's sequences and soft targets.

Early stopping keeps the weights of the epoch with the best validation NDCG@10. A run that was
killed goes on where it stopped, and ends with the weights it would have had.

Reads:    sequences, items, soft_targets
Writes:   checkpoints (with weights.safetensors), metrics to MLflow
If late:  evaluation and promotion wait; yesterday's champion keeps serving.
"""

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import save_file
from torch import Tensor

from schemas.audit import file_sha256
from schemas.checkpoints import CHECKPOINTS, WEIGHTS_FILE
from schemas.command import Night, Stage, run
from schemas.contract import PADDING_INDEX
from schemas.errors import DataError
from schemas.items import ITEMS
from schemas.partitions import Input, get
from schemas.sequences import SEQUENCES
from schemas.settings import Settings, TrainingSettings
from schemas.soft_targets import SOFT_TARGETS
from trainer.backbones import Backbone, build
from trainer.batches import TrainingWindows, target_counts, training_actions
from trainer.checkpointing import Progress, ResumeState
from trainer.fitting import Fitting, prepare_torch
from trainer.losses import USE_SOFT_TARGETS
from trainer.soft_targets import SoftTargets, from_table, no_soft_targets
from trainer.tracking import TrackedRun, track
from trainer.validation import ndcg_10, validation_of

SEED_KINDS = ("item", "user")
"""Of soft targets, in whose notes the manifest says how far they can be trusted."""
SEQUENCE_COLUMNS = ("user_id", "item_indices", "event_times", "num_train", "num_validation")


def inputs(root: Path, ds: date, settings: Settings) -> Sequence[Input]:
    """Tonight's sequences, items and soft targets."""
    return [get(root, table, ds).as_input() for table in (SEQUENCES, ITEMS, SOFT_TARGETS)]


STAGE = Stage(
    module="trainer.training",
    doc=__doc__,
    writes=(CHECKPOINTS,),
    inputs=inputs,
    settings=("training", "evaluation"),
)


def main(night: Night) -> None:
    """Trains and publishes tonight's checkpoint.

    Raises:
        DataError: Nothing to train on, tables that do not fit together, or a loss that is not
            finite.
    """
    prepare_torch(night.settings.training)
    resume = ResumeState.of(night.root, night.ds.isoformat(), night.fingerprint)
    sequences = get(night.root, SEQUENCES, night.ds).read(SEQUENCE_COLUMNS)
    backbone, windows = prepare(night, sequences)
    with _track(night) as tracked:
        notes = get(night.root, SOFT_TARGETS, night.ds).manifest.notes
        tracked.log_facts("soft_targets", {kind: notes.get(kind, {}) for kind in SEED_KINDS})
        progress = fit(night, sequences, backbone, windows, resume, tracked)
    draft = night.draft(CHECKPOINTS)
    move_to_recent_popularity(progress.best_weights, sequences, backbone, night.settings.training)
    save_file(progress.best_weights, draft.path / WEIGHTS_FILE)
    draft.write(_row(night, sequences, backbone, progress, draft.path / WEIGHTS_FILE))
    draft.notes = {
        "mlflow_run_id": tracked.id,
        "epochs": progress.epochs,
        "parameters": sum(p.numel() for p in backbone.parameters()),
    }
    night.publish(draft)
    resume.remove()


def prepare(night: Night, sequences: pa.Table) -> tuple[Backbone, TrainingWindows]:
    """A new backbone that starts from popularity, and the windows to train it on."""
    settings = night.settings.training
    items = get(night.root, ITEMS, night.ds).read(("item_index", "item_id"))
    _refuse_unknown_items(sequences, items.num_rows)
    soft_targets = _soft_targets(night, settings, items, sequences["user_id"])
    actions = training_actions(sequences)
    backbone = build(settings, items.num_rows)
    backbone.start_from(target_counts(actions, settings, items.num_rows))
    return backbone, TrainingWindows(actions, soft_targets, settings)


def move_to_recent_popularity(
    weights: dict[str, Tensor], sequences: pa.Table, backbone: Backbone, settings: TrainingSettings
) -> None:
    """Moves item biases by what popularity has changed since training positions ended.

    Weights that early stopping chose never saw the validation days, and popularity drifts: the
    bias gains the log of the last `popularity_days` days' counts with validation, and loses that
    of the counts it started from. The holdout is not looked at.
    """
    then_V, now_V = (
        target_counts(
            training_actions(sequences, with_validation=recent), settings, backbone.num_items
        )
        for recent in (False, True)
    )
    drift_V = torch.from_numpy(np.log1p(now_V) - np.log1p(then_V))[PADDING_INDEX + 1 :]
    weights["item_bias"] = (weights["item_bias"] + drift_V).to(weights["item_bias"].dtype)


def fit(
    night: Night,
    sequences: pa.Table,
    backbone: Backbone,
    windows: TrainingWindows,
    resume: ResumeState,
    tracked: TrackedRun,
) -> Progress:
    """Trains with early stopping where there are validation positions."""
    evaluation = night.settings.evaluation
    validation = validation_of(sequences, backbone.num_items, exclude_seen=evaluation.exclude_seen)

    def validate() -> float:
        return ndcg_10(backbone, validation, evaluation)

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        print(epoch_line(epoch, metrics, has_validation=len(validation) > 0), flush=True)
        tracked.log_epoch(epoch, metrics)

    fitting = Fitting(
        backbone,
        windows,
        night.settings.training,
        resume,
        validate if len(validation) else None,
        on_epoch,
    )
    return fitting.run()


def epoch_line(epoch: int, metrics: dict[str, float], *, has_validation: bool) -> str:
    """`epoch 3: loss 4.3120 (confidence 2.1, distribution 5.9), validation ndcg@10 0.05, 9 s`."""
    validation = f"validation ndcg@10 {metrics['validation_ndcg_10']:.4f}, "
    return (
        f"epoch {epoch}: loss {metrics['train_loss']:.4f} "
        f"(confidence {metrics['train_confidence']:.4f}, "
        f"distribution {metrics['train_distribution']:.4f}), "
        f"{validation if has_validation else ''}{metrics['seconds']:.1f} s"
    )


def _soft_targets(
    night: Night, settings: TrainingSettings, items: pa.Table, user_ids: pa.ChunkedArray
) -> SoftTargets:
    if settings.loss not in USE_SOFT_TARGETS:
        return no_soft_targets(items.num_rows)
    table = get(night.root, SOFT_TARGETS, night.ds).read()
    return from_table(table, items, user_ids, settings.beta)


def _refuse_unknown_items(sequences: pa.Table, num_items: int) -> None:
    greatest = pc.max(sequences["item_indices"].combine_chunks().flatten()).as_py()
    if greatest > num_items:
        raise DataError(
            f"item_index {greatest} in sequences",
            f"at most {num_items}, the size of items",
            "re-run jobs.sequences for this date: it read other items",
        )


def _track(night: Night) -> TrackedRun:
    ds = night.ds.isoformat()
    tags = {"penumbra.ds": ds} | {f"penumbra.{i.table}_digest": i.digest for i in night.inputs}
    if dag_run_id := os.environ.get("AIRFLOW_CTX_DAG_RUN_ID"):
        tags["penumbra.dag_run_id"] = dag_run_id
    return track(night.root, night.settings, f"training {ds}", night.fingerprint, tags)


def _row(
    night: Night, sequences: pa.Table, backbone: Backbone, progress: Progress, weights: Path
) -> pa.Table:
    settings, best = night.settings.training, progress.best_epoch
    digests = {i.table: i.digest for i in night.inputs}
    row = {
        "weights_sha256": file_sha256(weights),
        "backbone": settings.backbone,
        "loss": settings.loss,
        "settings": settings.model_dump_json(),
        "num_items": backbone.num_items,
        "trained_until": _last_training_day(sequences),
        "best_epoch": best,
        "validation_ndcg_10": progress.epochs[best - 1]["validation_ndcg_10"],
        "items_digest": digests[ITEMS.table],
        "sequences_digest": digests[SEQUENCES.table],
        "soft_targets_digest": digests[SOFT_TARGETS.table],
    }
    return pa.Table.from_pylist([row], schema=CHECKPOINTS.schema)


def _last_training_day(sequences: pa.Table) -> date:
    times = sequences["event_times"].combine_chunks()
    num_seen = sequences["num_train"].to_numpy() + sequences["num_validation"].to_numpy()
    last = times.offsets.to_numpy()[:-1] + num_seen - 1
    return pc.max(times.values.take(pa.array(last.astype(np.int64)))).as_py().date()


if __name__ == "__main__":
    run(STAGE, main)
