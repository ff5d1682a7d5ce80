"""Batches: training windows and their examples, cut from sequences and soft targets.

A user's training positions are cut from the end into windows of `max_length` inputs. A window
starts with the input after which the one before ends, so every position but a user's last is
an input exactly once, and with `target_days = 0` every position but a user's first is a target
exactly once. Windows are padded on the right (see backbones).

    B batch, L sequence length, W windows, N counted positions, P positions, V items
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from schemas.errors import DataError
from schemas.settings import TrainingSettings
from trainer.histories import Histories, whole
from trainer.losses import Examples
from trainer.soft_targets import SoftTargets

BATCHES_PER_BUCKET = 16
"""Batches over which windows are sorted by length, so that a batch's windows are about as long."""

MILLISECONDS_PER_DAY = 86_400_000


@dataclass(frozen=True)
class Batch:
    """Inputs, and what should follow those of their positions that count in the loss.

    Shapes: `items_BL` int64; `positions_N` int64, the counted places of the flattened batch
    (row · L + column), ascending; `examples` one row per counted position.
    """

    items_BL: Tensor
    positions_N: Tensor
    examples: Examples


@dataclass(frozen=True)
class Actions:
    """Training actions alone, users one after the other: items, and times in ms [P] int64."""

    histories: Histories
    times_P: np.ndarray


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
    times = sequences["event_times"].combine_chunks().values.cast(pa.timestamp("ms", "UTC"))
    ends = np.cumsum(lengths)
    items = Histories(everything.items, starts, stops).positions()[1]
    times_P = Histories(times.cast(pa.int64()).to_numpy(), starts, stops).positions()[1]
    return Actions(Histories(items, ends - lengths, ends), times_P)


def target_counts(actions: Actions, settings: TrainingSettings, num_items: int) -> np.ndarray:
    """How many of the last `popularity_days` days' actions on each item may be targets.

    With `targets = "new"` that is how many users came to the item in these days.

    Returns:
        By `item_index`, [V + 1] int64.
    """
    is_counted_P = _may_be_target(actions.histories, only_new=settings.targets == "new")
    if settings.popularity_days:
        since = actions.times_P.max() - settings.popularity_days * MILLISECONDS_PER_DAY
        is_counted_P &= actions.times_P > since
    return np.bincount(actions.histories.items[is_counted_P], minlength=num_items + 1)


class TrainingWindows:
    """All training windows of a night, and batches of them in a seeded order.

    Args:
        actions: Training positions, user by user.
        soft_targets: What to look examples up in; its users are those of `actions`.
        settings: `max_length`, `targets`, `target_days`, `batch_size` and `seed`.

    Raises:
        DataError: No position counts in the loss.
    """

    def __init__(
        self, actions: Actions, soft_targets: SoftTargets, settings: TrainingSettings
    ) -> None:
        self.items_P, self.soft_targets, self.settings = (
            actions.histories.items,
            soft_targets,
            settings,
        )
        is_candidate_P = _may_be_target(actions.histories, only_new=settings.targets == "new")
        self.candidates = np.flatnonzero(is_candidate_P)
        num_before = np.concatenate([[0], np.cumsum(is_candidate_P)])
        self.first_candidate_P = num_before[1:]
        reach_P = np.maximum(
            _reach(actions, settings.target_days), np.arange(len(self.items_P)) + 1
        )
        self.num_candidates_P = num_before[reach_P] - self.first_candidate_P
        self.users, self.inputs = self._windows(actions.histories)

    @property
    def num_batches(self) -> int:
        """Optimiser steps of one epoch."""
        return -(-len(self.inputs) // self.settings.batch_size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from `first_batch` on.

        Order and drawn targets depend on seed and epoch alone, so that an interrupted epoch
        continues with the batches that were left.
        """
        random = np.random.default_rng([self.settings.seed, epoch])
        batches, targets_P = self._shuffled(random), self._draw(random)
        for windows in batches[first_batch:]:
            yield self._batch(windows, targets_P)

    def _windows(self, histories: Histories) -> tuple[np.ndarray, Histories]:
        """User and inputs of every window that holds a counted position. [W]."""
        users, starts, stops = _cut(histories, self.settings.max_length)
        num_before = np.concatenate([[0], np.cumsum(self.num_candidates_P > 0)])
        counts = num_before[stops] > num_before[starts]
        if not counts.any():
            raise DataError(
                f"no training target among {len(self.items_P)} training positions",
                "users with two training positions or more",
                "more history (events.history_days), or training.targets = 'all'",
            )
        return users[counts], Histories(histories.items, starts[counts], stops[counts])

    def _shuffled(self, random: np.random.Generator) -> list[np.ndarray]:
        windows, size = random.permutation(len(self.inputs)), self.settings.batch_size
        bucket = np.arange(len(windows)) // (size * BATCHES_PER_BUCKET)
        by_length = windows[np.lexsort((self.inputs.lengths[windows], bucket))]
        batches = np.split(by_length, range(size, len(windows), size))
        return [batches[b] for b in random.permutation(len(batches))]

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        """One target item per position, 0 where it has none. [P + 1], the last for padding."""
        nth = (random.random(len(self.items_P)) * self.num_candidates_P).astype(np.int64)
        has_target = self.num_candidates_P > 0
        chosen = self.candidates[(self.first_candidate_P + nth)[has_target]]
        targets_P = np.zeros(len(self.items_P) + 1, dtype=np.int64)
        targets_P[:-1][has_target] = self.items_P[chosen]
        return targets_P

    def _batch(self, windows: np.ndarray, targets_P: np.ndarray) -> Batch:
        inputs = self.inputs.take(windows)
        items_BL, lengths = inputs.last(self.settings.max_length)
        columns = np.arange(items_BL.shape[1])
        at_BL = np.where(columns < lengths[:, None], inputs.starts[:, None] + columns, -1)
        targets_BL = targets_P[at_BL].ravel()
        positions = np.flatnonzero(targets_BL)
        users = self.users[windows][positions // len(columns)]
        targets = torch.from_numpy(targets_BL[positions])
        return Batch(
            torch.from_numpy(items_BL),
            torch.from_numpy(positions),
            self.soft_targets.examples(targets, torch.from_numpy(users)),
        )


def _cut(histories: Histories, max_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, first and one past the last input position of every window. [W]."""
    num_windows = -(-(histories.lengths - 1) // max_length)
    users = np.repeat(np.arange(len(histories)), num_windows)
    num_later = np.cumsum(num_windows)[users] - 1 - np.arange(len(users))
    stops = histories.stops[users] - 1 - num_later * max_length
    return users, np.maximum(stops - max_length, histories.starts[users]), stops


def _may_be_target(histories: Histories, *, only_new: bool) -> np.ndarray:
    """Which positions' items may be targets of earlier ones. [P] bool.

    `only_new` takes a user's first action on an item alone, looking at the whole history: what
    evaluation without seen items asks of a model.
    """
    users, items = histories.positions()
    if not only_new:
        return np.ones(len(items), dtype=bool)
    _, first_occurrences = np.unique(users * (items.max() + 1) + items, return_index=True)
    is_first = np.zeros(len(items), dtype=bool)
    is_first[first_occurrences] = True
    return is_first


def _reach(actions: Actions, target_days: float) -> np.ndarray:
    """One past the last position whose item may be a position's target. [P] int64.

    With `target_days`, all actions of the following days count ("dense all-action" prediction,
    Pancha et al. 2022, PinnerFormer), and only a timestamp's last position has any: the order
    inside one timestamp carries nothing.
    """
    users, _ = actions.histories.positions()
    next_position = np.arange(len(users)) + 1
    stops = actions.histories.stops[users]
    if target_days == 0:
        return np.minimum(next_position + 1, stops)
    times = actions.times_P - actions.times_P.min()
    span = int(target_days * MILLISECONDS_PER_DAY) + 1
    by_user = users * (int(times.max()) + span + 1) + times
    reach = np.searchsorted(by_user, by_user + span - 1, side="right")
    following = np.minimum(next_position, len(users) - 1)
    is_last_of_timestamp = (next_position == stops) | (times[following] > times)
    return np.where(is_last_of_timestamp, reach, next_position)
