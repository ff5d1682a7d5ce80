"""Checkpointing: trained models read back from the checkpoints table."""

from pathlib import Path

from safetensors.torch import load_file

from schemas.checkpoints import WEIGHTS_FILE
from schemas.partitions import Partition
from schemas.settings import TrainingSettings
from trainer.backbones import Backbone, build


def load(partition: Partition) -> tuple[Backbone, TrainingSettings]:
    """The trained model of a published night, ready to score (evaluation mode).

    Args:
        partition: A partition of the checkpoints table, as `schemas.partitions.get` returns it.

    Returns:
        The backbone with its weights, and the training settings it was made with.
    """
    (row,) = partition.read().to_pylist()
    settings = TrainingSettings.model_validate_json(row["settings"])
    return restore(settings, row["num_items"], partition.attachment(WEIGHTS_FILE)), settings


def restore(settings: TrainingSettings, num_items: int, weights: Path) -> Backbone:
    """A backbone in evaluation mode with the weights of a safetensors file.

    Args:
        settings: The training section it was trained with.
        num_items: V, the catalogue it was trained on, without padding.
        weights: Path of the safetensors file; nothing in it is executed.
    """
    backbone = build(settings, num_items)
    backbone.load_state_dict(load_file(weights))
    return backbone.eval()
