"""Quality space: what a search may choose from, for every loss in one place.

All losses draw the same shared settings in the same trials, so that no loss is luckier with its
learning rates; own settings are drawn beside them. Trial 0 takes the first choice of everything.
"""

import math
import random
from collections.abc import Mapping
from typing import Any

from schemas.errors import UsageError
from schemas.settings import Settings

Choices = Mapping[str, tuple[Any, ...]]
"""By dotted setting: the values it may take, the one to start from first."""
Changes = dict[str, Any]
"""By dotted setting: its value."""

SHARED: Choices = {
    "training.learning_rate": (1e-3, 5e-4, 2e-3, 4e-3),
    "training.dropout": (0.2, 0.1, 0.3, 0.5),
    "training.weight_decay": (0.01, 0.0, 0.1, 0.5),
    "training.width": (64, 128),
    "training.num_blocks": (2, 1),
    "training.schedule": ("constant", "cosine"),
    "training.history_skip": (True, False),
}
SOFT_TARGETS: Choices = {
    "item_graph.window": (10, 3, 1, 50),
    "item_graph.normaliser": ("cosine", "raw", "jaccard", "bm25"),
    "item_graph.direction": ("symmetric", "forward"),
    "soft_targets.alpha": (0.5, 0.3, 0.7),
    "soft_targets.top_k": (100, 20),
}
OWN: dict[str, Choices] = {
    "cross_entropy": {},
    "label_smoothing": {"training.label_smoothing": (0.1, 0.05, 0.2, 0.3)},
    "decoupled": {
        "training.lambda1": (0.3, 0.0, 0.1, 0.6, 0.9),
        "training.lambda2": (0.5, 0.2, 0.8, 0.95),
        "training.beta": (0.0, 0.1, 0.3),
        **SOFT_TARGETS,
    },
}
"""Settings that only one loss looks at, by loss."""
METHOD = "decoupled"
BASELINES = ("cross_entropy", "label_smoothing")
LOSSES = (*BASELINES, METHOD)


def draw_trials(loss: str, seed: int, num_trials: int) -> list[Changes]:
    """What each trial of a loss changes; more trials begin with the same ones.

    Raises:
        UsageError: There are not as many different shared settings.
    """
    num_shared = math.prod(map(len, SHARED.values()))
    if num_trials > num_shared:
        raise UsageError(f"{num_trials} trials", f"at most {num_shared}", "--trials")
    shared, own = random.Random(f"{seed} shared"), random.Random(f"{seed} {loss}")
    trials: list[Changes] = []
    drawn: list[Changes] = []
    while len(trials) < num_trials:
        one = _draw(SHARED, shared) if drawn else first_choices(SHARED)
        if one not in drawn:
            drawn.append(one)
            trials.append(one | (_draw(OWN[loss], own) if trials else first_choices(OWN[loss])))
    return trials


def first_choices(choices: Choices) -> Changes:
    """The value that a search starts from, for every setting."""
    return {name: values[0] for name, values in choices.items()}


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Settings with some values replaced.

    Raises:
        ValidationError: A setting is unknown or a value out of range.
    """
    values = settings.model_dump()
    for dotted, value in changes.items():
        section, key = dotted.split(".")
        values[section][key] = value
    return Settings.model_validate(values)


def _draw(choices: Choices, chance: random.Random) -> Changes:
    return {name: chance.choice(values) for name, values in choices.items()}
