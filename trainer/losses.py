"""Losses: training objectives behind one signature.

Every loss takes hidden states, the output layer and the examples they belong to, and gives its
mean over examples with its two parts. None builds a dense soft label, and none holds the logits
of all examples: see `trainer/full_losses.py` and `trainer/sampled_losses.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from schemas.settings import TrainingSettings
from trainer.examples import Examples, LossParts, Output
from trainer.full_losses import cross_entropy, decoupled, full_loss, label_smoothing, soft_labels
from trainer.sampled_losses import bce, bpr, gbce, sampled_loss, sampled_softmax

Loss = Callable[[Tensor, Output, Examples, TrainingSettings], LossParts]
"""(hidden_ND, output layer, examples, settings) to the mean over examples and its parts."""

LOSSES: dict[str, Loss] = {
    "cross_entropy": partial(full_loss, cross_entropy),
    "label_smoothing": partial(full_loss, label_smoothing),
    "soft_labels": partial(full_loss, soft_labels),
    "decoupled": partial(full_loss, decoupled),
    "sampled_softmax": partial(sampled_loss, sampled_softmax),
    "bce": partial(sampled_loss, bce),
    "gbce": partial(sampled_loss, gbce),
    "bpr": partial(sampled_loss, bpr),
}
"""By `training.loss`. A new one joins here, in the settings, and in the shared tests."""

USE_SOFT_TARGETS = frozenset({"soft_labels", "decoupled"})
"""The losses that look at soft targets; for the others none are read."""

DRAW_NEGATIVES = frozenset({"sampled_softmax", "bce", "gbce", "bpr"})
"""The losses that draw negatives."""

DRAW_ALIKE = frozenset({"bce", "gbce"})
"""Those that draw all items alike, as Kang & McAuley 2018 and Petrov & Macdonald 2023 do: nothing
in them takes the draws' popularity out of the probabilities they learn."""


@contextmanager
def draws_of(settings: TrainingSettings, step: int, device: torch.device) -> Iterator[None]:
    """Inside, negatives depend on seed and step alone: all ranks draw the same.

    Whatever else is random, such as dropout, goes on after it where it was before.
    """
    if settings.loss not in DRAW_NEGATIVES:
        yield
        return
    seed = int(np.random.SeedSequence((settings.seed, step)).generate_state(1)[0])
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
