"""Checkpoints: one row per training run, with the weights beside it."""

import pyarrow as pa

from schemas.contract import Contract, required

WEIGHTS_FILE = "weights.safetensors"
"""The attachment that holds the tensors."""

CHECKPOINTS = Contract(
    table="checkpoints",
    version=1,
    key=("weights_sha256",),
    stage="trainer.training",
    about=f"One training run; its tensors are the attachment `{WEIGHTS_FILE}`.",
    fields=[
        required("weights_sha256", pa.string(), "of the attached file"),
        required("backbone", pa.string(), "sequence model, as training.backbone names it"),
        required("loss", pa.string(), "training objective"),
        required("settings", pa.string(), "JSON of the training section"),
        required("num_items", pa.int32(), "catalogue size without padding", at_least=1),
        required(
            "trained_until",
            pa.date32(),
            "last day before the holdout with actions; those of validation move item biases only",
        ),
        required("best_epoch", pa.int32(), "epoch whose weights these are, from 1", at_least=1),
        required("validation_ndcg_10", pa.float64(), "of these weights; 0 without validation"),
        required("items_digest", pa.string(), "content digest of the items read"),
        required("sequences_digest", pa.string(), "content digest of the sequences read"),
        required("soft_targets_digest", pa.string(), "content digest of the soft targets read"),
    ],
)
