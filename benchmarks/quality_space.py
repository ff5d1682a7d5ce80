"""Quality space: what a search may choose from, for every loss in one place.

Every loss has the same number of trials; one with more settings of its own has to find more. It
begins with the same shared settings as the others, or with its own best of earlier trainings where
the data set names them.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import UsageError
from schemas.settings import Settings

Choices = Mapping[str, tuple[Any, ...]]
"""By dotted setting: the values it may take, the one to start from first."""
Changes = dict[str, Any]
"""By dotted setting: its value."""

SHARED: Choices = {
    "training.learning_rate": (2e-3, 4e-3, 1e-3, 5e-4),
    "training.dropout": (0.2, 0.4, 0.1, 0.5),
}
SOFT_TARGETS: Choices = {
    "item_graph.normaliser": ("raw", "cosine", "jaccard", "bm25"),
    "item_graph.window": (10, 1, 3, 50),
    "item_graph.direction": ("forward", "symmetric"),
    "soft_targets.alpha": (0.3, 0.1, 0.5),
    "soft_targets.top_k": (100, 20),
}
"""What `targets` compares; trainings are too dear for settings that it shows to matter little."""
OWN: dict[str, Choices] = {
    "cross_entropy": {},
    "label_smoothing": {"training.label_smoothing": (0.1, 0.05, 0.2, 0.3)},
    "decoupled": {
        "training.lambda1": (0.0,),
        "training.lambda2": (0.3, 0.5, 0.8),
        "training.softness": ("falling", "constant"),
        "training.gamma": (0.8, 0.4),
        "item_graph.normaliser": ("raw",),
        "item_graph.direction": ("forward",),
        "soft_targets.alpha": (0.3,),
    },
}
"""Settings that only one loss looks at, by loss."""
EPOCHS = "training.epochs"
METHOD = "decoupled"
BASELINES = ("cross_entropy", "label_smoothing")
LOSSES = (*BASELINES, METHOD)
MOST_DRAWS = 1000
"""After which nothing new is expected."""


def next_changes(
    loss: str,
    seed: int,
    tried: Sequence[tuple[Changes, float]],
    choices: Choices,
    first: Sequence[Changes],
) -> Changes:
    """What the next trial of a loss changes: the best so far with one or two settings drawn anew.

    Args:
        loss: One of `LOSSES`.
        seed: Of what is drawn.
        tried: The trials before with their validation, oldest first.
        choices: What the loss may choose from.
        first: The trials to begin with.

    Raises:
        UsageError: Nothing new is that close to the best.
    """
    if len(tried) < len(first):
        return first[len(tried)]
    known = [changes for changes, _ in tried]
    best, _ = max(tried, key=lambda one: one[1])
    chance = random.Random(f"{seed} {loss} {len(tried)}")
    open_to_change = [name for name, values in choices.items() if len(values) > 1]
    for _ in range(MOST_DRAWS):
        names = chance.sample(open_to_change, min(chance.choice((1, 2)), len(open_to_change)))
        others = {n: [value for value in choices[n] if value != best[n]] for n in names}
        drawn = best | {name: chance.choice(values) for name, values in others.items()}
        if drawn not in known:
            return drawn
    raise UsageError(f"{len(tried)} trials of {loss} and nothing new", "fewer", "--trials")


def openings(choices: Choices, start: Changes, second: Changes | None) -> list[Changes]:
    """The trials that a loss begins with: its start, a second, every other number of epochs.

    The start is the first choice of everything that `start` does not name; `second`, where it is
    given, is what another trial changes of it. How long to train is what losses differ in most:
    none may win because another was not tried that long, or as short.
    """
    first = first_choices(choices) | start
    others = [num for num in choices.get(EPOCHS, ()) if num != first[EPOCHS]]
    seconds = [first | second] if second else []
    return [first, *seconds, *({**first, EPOCHS: num} for num in others)]


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
