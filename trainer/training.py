"""Training: one checkpoint per night, trained on tonight's sequences and soft targets.

Early stopping keeps the weights of the epoch with the best validation NDCG@10. A run that was
killed goes on where it stopped, and ends with the weights it would have had.

Reads:    sequences, items, soft_targets; the registered champion, to start from where asked
Writes:   checkpoints (with weights.safetensors), metrics to MLflow
If late:  evaluation and promotion wait; yesterday's champion keeps serving.
"""

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors.torch import save_file

from schemas.audit import file_sha256
from schemas.checkpoints import CHECKPOINTS, WEIGHTS_FILE
from schemas.command import Night, Stage
from schemas.items import ITEMS
from schemas.partitions import Input, get
from schemas.sequences import SEQUENCES
from schemas.settings import MAY_HOLD_A_PASSWORD, Settings
from schemas.soft_targets import SOFT_TARGETS
from trainer import figures, provenance
from trainer.backbones import Backbone
from trainer.batches import TrainingWindows
from trainer.checkpointing import Progress, ResumeState
from trainer.fitting import Fitting, device_of_process, has_fast, prepare_torch
from trainer.preparation import move_to_recent_popularity, prepare
from trainer.ranks import Ranks, run_ranks, spread
from trainer.sequences import Sequences
from trainer.tracking import TrackedRun, track
from trainer.validation import ndcg_10, validation_loss, validation_of
from trainer.warm_start import champion_input

SEED_KINDS = ("item", "user")
"""Of soft targets, in whose notes the manifest says how far they can be trusted."""


def inputs(root: Path, ds: date, settings: Settings) -> Sequence[Input]:
    """Tonight's sequences, items and soft targets, and the champion to start from, if any."""
    tables = [get(root, table, ds).as_input() for table in (SEQUENCES, ITEMS, SOFT_TARGETS)]
    return tables + champion_input(root, ds, settings)


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
    settings = night.settings.training
    spread(STAGE, settings.processes)
    prepare_torch(settings)
    if Ranks.of_process().is_first and not has_fast(settings.precision, device_of_process()):
        slow = f"training.precision = {settings.precision} on a CPU without instructions for it"
        print(f"{STAGE.module}: {slow}; float32 is faster", flush=True)
    resume = ResumeState.of(night.root, night.ds.isoformat(), night.fingerprint)
    sequences = Sequences(get(night.root, SEQUENCES, night.ds))
    backbone, windows = prepare(night, sequences)
    if not Ranks.of_process().is_first:
        fit(night, sequences, backbone, windows, resume, None)
        return
    with _track(night) as tracked:
        _log_inputs(night, tracked)
        progress = fit(night, sequences, backbone, windows, resume, tracked)
    draft = night.draft(CHECKPOINTS)
    weights = progress.best_weights
    move_to_recent_popularity(weights, sequences, backbone.num_items, settings)
    save_file(weights, draft.path / WEIGHTS_FILE)
    draft.write(_row(night, sequences, backbone, progress, draft.path / WEIGHTS_FILE))
    draft.notes = {
        "mlflow_run_id": tracked.id,
        "split": night.settings.split.name,
        "provenance": provenance.of_process() | {"settings": _settings(night)},
        "epochs": progress.epochs,
        "parameters": sum(p.numel() for p in backbone.parameters()),
    }
    night.publish(draft)
    resume.remove()


def fit(
    night: Night,
    sequences: Sequences,
    backbone: Backbone,
    windows: TrainingWindows,
    resume: ResumeState,
    tracked: TrackedRun | None,
) -> Progress:
    """Trains with early stopping where there are validation positions.

    Only the first rank has a `tracked` run: it validates and speaks for all.
    """
    settings, evaluation = night.settings.training, night.settings.evaluation
    users, rows = sequences.validating(settings.validation_users, settings.seed)
    validation, followed = (
        validation_of(rows, backbone.num_items, exclude_seen=exclude_seen)
        for exclude_seen in (evaluation.exclude_seen, settings.targets == "new")
    )

    def validate() -> dict[str, float]:
        ndcg = ndcg_10(backbone, validation, evaluation)
        targets, sampling = windows.soft_targets, fitting.log_sampling_V
        now = fitting.settings_of_epoch()
        losses = validation_loss(backbone, followed, targets, now, sampling, users)
        return {"validation_ndcg_10": ndcg} | losses

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        print(epoch_line(epoch, metrics), flush=True)
        assert tracked is not None
        tracked.log_epoch(epoch, metrics)

    fitting = Fitting(
        backbone.to(device_of_process()),
        windows,
        settings,
        resume,
        validate if len(validation) else None,
        on_epoch,
    )
    progress = fitting.run()
    if tracked is not None:
        tracked.log_figures({"curves": figures.curves(progress.epochs, tracked.subject)})
    return progress


def epoch_line(epoch: int, metrics: dict[str, float]) -> str:
    """`epoch 3: loss 4.3120 (confidence 2.1, distribution 5.9), validation ndcg@10 0.05, 9 s`."""
    validation = ""
    if "validation_ndcg_10" in metrics:
        validation = f"validation ndcg@10 {metrics['validation_ndcg_10']:.4f}, "
    return (
        f"epoch {epoch}: loss {metrics['train_loss']:.4f} "
        f"(confidence {metrics['train_confidence']:.4f}, "
        f"distribution {metrics['train_distribution']:.4f}), "
        f"{validation}{metrics['seconds']:.1f} s"
    )


def _track(night: Night) -> TrackedRun:
    ds = night.ds.isoformat()
    tags = {"penumbra.ds": ds} | {f"penumbra.{i.table}_digest": i.digest for i in night.inputs}
    if dag_run_id := os.environ.get(provenance.DAG_RUN_VARIABLE):
        tags["penumbra.dag_run_id"] = dag_run_id
    return track(night.root, night.settings, f"training {ds}", night.fingerprint, tags)


def _settings(night: Night) -> dict[str, Any]:
    """All settings but those that may hold a password."""
    return night.settings.model_dump(exclude=MAY_HOLD_A_PASSWORD)


def _log_inputs(night: Night, tracked: TrackedRun) -> None:
    """Which tables the run learns from, and what their soft targets look like."""
    tables = [get(night.root, table, night.ds) for table in (SEQUENCES, ITEMS, SOFT_TARGETS)]
    notes = tables[-1].manifest.notes
    kinds = {kind: notes[kind] for kind in SEED_KINDS if kind in notes}
    tracked.log_datasets(tables)
    tracked.log_facts("soft_targets", kinds)
    if kinds:
        mass = figures.soft_target_mass(kinds, tracked.subject)
        tracked.log_figures({"soft_target_mass": mass})


def _row(
    night: Night, sequences: Sequences, backbone: Backbone, progress: Progress, weights: Path
) -> pa.Table:
    settings, best = night.settings.training, progress.best_epoch
    digests = {i.table: i.digest for i in night.inputs}
    row = {
        "weights_sha256": file_sha256(weights),
        "backbone": settings.backbone,
        "loss": settings.loss,
        "settings": settings.model_dump_json(),
        "num_items": backbone.num_items,
        "trained_until": sequences.facts.trained_until,
        "best_epoch": best,
        "validation_ndcg_10": progress.epochs[best - 1].get("validation_ndcg_10", 0.0),
        "items_digest": digests[ITEMS.table],
        "sequences_digest": digests[SEQUENCES.table],
        "soft_targets_digest": digests[SOFT_TARGETS.table],
    }
    return pa.Table.from_pylist([row], schema=CHECKPOINTS.schema)


if __name__ == "__main__":
    run_ranks(STAGE, main)
