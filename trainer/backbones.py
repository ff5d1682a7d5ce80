"""Backbones: the families of sequence models by name, and how one is built.

`trainer/backbone.py` is what they have in common.
"""

from collections.abc import Callable

import torch

from schemas.settings import TrainingSettings
from trainer.attention import SASRec
from trainer.backbone import Backbone
from trainer.pooled import MLP, DeepFM
from trainer.recurrent import GRU4Rec

__all__ = ["BACKBONES", "Backbone", "build"]

BACKBONES: dict[str, Callable[[TrainingSettings, int], Backbone]] = {
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
    "mlp": MLP,
    "deepfm": DeepFM,
}
"""By `training.backbone`. A new one joins here, in the settings, and in the shared tests."""


def build(settings: TrainingSettings, num_items: int) -> Backbone:
    """A new backbone; its weights are a function of the settings (with their seed) alone.

    Args:
        settings: The training section.
        num_items: V, the catalogue without padding.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return BACKBONES[settings.backbone](settings, num_items)
