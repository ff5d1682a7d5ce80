"""Actions: what users did before validation, a few thousand users at a time.

P positions, V items
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.contract import TIMESTAMP
from schemas.settings import TrainingSettings
from trainer.histories import Histories, whole

MICROSECONDS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class Actions:
    """Training actions alone, users one after the other: items, and times in µs [P] int64."""

    histories: Histories
    times_P: np.ndarray


Chunks = Callable[[], Iterable[Actions]]
"""Goes through all training actions, chunk by chunk, from the first user on."""


def training_actions(sequences: pa.Table, *, with_validation: bool = False) -> Actions:
    """The training positions of every row of the sequences table, in its order.

    Args:
        sequences: Rows of the sequences table.
        with_validation: Whether the validation positions are taken, too.
    """
    everything = whole(sequences)
    lengths = sequences["num_train"].to_numpy().astype(np.int64)
    if with_validation:
        lengths = lengths + sequences["num_validation"].to_numpy()
    starts, stops = everything.starts, everything.starts + lengths
    times = sequences["event_times"].combine_chunks().values.cast(TIMESTAMP)
    ends = np.cumsum(lengths)
    items = Histories(everything.items, starts, stops).positions()[1]
    times_P = Histories(times.cast(pa.int64()).to_numpy(), starts, stops).positions()[1]
    return Actions(Histories(items, ends - lengths, ends), times_P)


def target_counts(chunks: Chunks, settings: TrainingSettings, num_items: int) -> np.ndarray:
    """How many of the last `popularity_days` days' actions on each item may be targets.

    With `targets = "new"` that is how many users came to the item in these days.

    Returns:
        By `item_index`, [V + 1] int64.
    """
    counts_V = np.zeros(num_items + 1, dtype=np.int64)
    since = -np.inf
    if settings.popularity_days:
        last = max((c.times_P.max() for c in chunks() if len(c.times_P)), default=0)
        since = last - settings.popularity_days * MICROSECONDS_PER_DAY
    for actions in chunks():
        is_counted_P = may_be_target(actions, only_new=settings.targets == "new")
        is_counted_P &= actions.times_P > since
        counts_V += np.bincount(actions.histories.items[is_counted_P], minlength=num_items + 1)
    return counts_V


def may_be_target(actions: Actions, *, only_new: bool) -> np.ndarray:
    """Which positions' items may be targets of earlier ones. [P] bool.

    `only_new` takes a user's first action on an item alone, looking at the whole history: what
    evaluation without seen items asks of a model.
    """
    users, items = actions.histories.positions()
    if not only_new:
        return np.ones(len(items), dtype=bool)
    _, first_occurrences = np.unique(users * (items.max(initial=0) + 1) + items, return_index=True)
    is_first = np.zeros(len(items), dtype=bool)
    is_first[first_occurrences] = True
    return is_first


def target_reach(actions: Actions, target_days: float) -> np.ndarray:
    """One past the last position whose item may be a position's target. [P] int64.

    With `target_days`, all actions of the following days count ("dense all-action" prediction,
    Pancha et al. 2022, PinnerFormer), and only a timestamp's last position has any: the order
    inside one timestamp carries nothing. At least the position's own number plus one.
    """
    users, _ = actions.histories.positions()
    next_position = np.arange(len(users)) + 1
    stops = actions.histories.stops[users]
    if target_days == 0 or not len(users):
        return np.minimum(next_position + 1, stops)
    times = actions.times_P - actions.times_P.min()
    # Nothing is further apart than all of it, whatever the setting.
    span = min(int(target_days * MICROSECONDS_PER_DAY), int(times.max())) + 1
    by_user = users * (int(times.max()) + span + 1) + times
    reach = np.searchsorted(by_user, by_user + span - 1, side="right")
    following = np.minimum(next_position, len(users) - 1)
    is_last_of_timestamp = (next_position == stops) | (times[following] > times)
    return np.maximum(np.where(is_last_of_timestamp, reach, next_position), next_position)
