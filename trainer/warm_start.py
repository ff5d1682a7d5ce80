"""Warm start: a night's model begins with what an earlier champion has learned.

With `training.warm_start`, the champion is an input of training. Its weights are taken over where
its architecture and the split of its night are tonight's; raw item ids lead from its catalogue to
tonight's.

    V items, D width
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schemas.command import Night
from schemas.partitions import Input
from schemas.settings import Settings, TrainingSettings
from trainer.backbone import Backbone
from trainer.checkpointing import Weights
from trainer.scorer import from_folder
from trainer.scorer_files import SETTINGS_FILE
from trainer.versions import CHAMPION

ARCHITECTURE = (
    "backbone",
    "width",
    "num_blocks",
    "history_skip",
    "tied_output",
)
"""Settings that two models have in common when the weights of one fit the other."""

OF_ATTENTION = ("num_heads", "max_length")
"""The same, of backbones with heads and positions."""

FIRST_ITEM_ROW = {"item_embedding.weight": 1, "output_embedding.weight": 1, "item_bias": 0}
"""Weights with a row per item, and which row is that of `item_index` 1."""


def champion_input(root: Path, ds: date, settings: Settings) -> list[Input]:
    """The champion a night may start from, as the one line of lineage; none without warm start.

    It is one of an earlier night: a later one has seen tonight's holdout, and starting from
    tonight's own would give other weights each time. A night that was decided on before meets
    the champion of its first decision again, so that running it again changes nothing.
    """
    if not settings.training.warm_start:
        return []
    from trainer.ledger import decisions, standing_for  # both import MLflow, which takes seconds
    from trainer.registry import Registry

    registry, decided = Registry(root, settings), decisions(root, ds)
    if decided:
        number = decided[0]["champion_version"]
        champion = standing_for(registry, number) if number else None
    else:
        champion = registry.champion()
    return [champion.as_input()] if champion and champion.ds < ds else []


def start_from_champion(
    backbone: Backbone, night: Night, item_ids: Sequence[str], trained_until: date
) -> str:
    """Gives a new model the weights of the night's champion, where they fit.

    Args:
        backbone: A new model of tonight's catalogue; changed in place.
        night: Whose inputs name the champion, as `champion_input` does.
        item_ids: Tonight's raw ids; entry j - 1 is `item_index` j.
        trained_until: The last day before tonight's holdout that has actions.

    Returns:
        What the model starts from and why, in one line.

    Raises:
        RegistryError: The champion's artifact is missing or damaged.
    """
    from trainer.registry import Registry

    line = next((line for line in night.inputs if line.table == CHAMPION), None)
    if line is None:
        return "starts new: no champion of an earlier night"
    registry = Registry(night.root, night.settings)
    version = registry.get(int(line.run))
    name = f"champion {version.number} of {version.ds}"
    if version.trained_until > trained_until:
        found, limit = version.trained_until, trained_until
        return f"starts new: {name} was trained until {found}, tonight's model until {limit}"
    tonight = night.settings.split.name
    if version.split != tonight:  # its training may have had what tonight validates or holds out
        return (
            f"starts new: {name} was split by {version.split or 'nobody knows what'}, not {tonight}"
        )
    folder = registry.download(version)
    made_with = TrainingSettings.model_validate_json((folder / SETTINGS_FILE).read_text())
    if difference := architecture_difference(made_with, night.settings.training):
        return f"starts new: {name} has {difference}"
    champion = from_folder(folder)
    old_index_V = champion.renumbering(list(item_ids))
    weights = grow(champion.backbone.state_dict(), backbone.state_dict(), old_index_V)
    backbone.load_state_dict(weights)
    return f"starts from {name}: {np.count_nonzero(old_index_V)} of {len(item_ids)} items known"


def architecture_difference(theirs: TrainingSettings, ours: TrainingSettings) -> str:
    """What keeps the weights of one model from fitting another in words; empty where they fit."""
    names = ARCHITECTURE + (OF_ATTENTION if ours.backbone == "sasrec" else ())
    values = {name: (getattr(theirs, name), getattr(ours, name)) for name in names}
    return ", ".join(f"{name} {a}, not {b}" for name, (a, b) in values.items() if a != b)


def grow(weights: Weights, new: Weights, old_index_V: np.ndarray) -> Weights:
    """The weights of a trained model for another catalogue, such as one that has grown.

    Rows of items that the trained model knows are kept bit for bit; rows of others are those of
    the new model. All other weights are the trained model's.

    Args:
        weights: Of the trained model.
        new: Of a new model with the same architecture and the other catalogue.
        old_index_V: The trained model's `item_index` by the other catalogue's [V + 1];
            `PADDING_INDEX` for items it does not know and for padding.

    Returns:
        Weights that the new model can load; they share no memory with those given.
    """
    known_K = torch.from_numpy(np.flatnonzero(old_index_V))
    old_K = torch.from_numpy(old_index_V)[known_K]
    grown: dict[str, Tensor] = {}
    for name, fresh in new.items():
        if name in FIRST_ITEM_ROW:
            shift = FIRST_ITEM_ROW[name] - 1
            grown[name] = fresh.clone()
            grown[name][known_K + shift] = weights[name][old_K + shift]
        else:
            grown[name] = weights[name].clone()
    return grown
