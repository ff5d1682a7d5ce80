"""Batches: training windows and their examples, cut from sequences and soft targets.

A user's training positions are cut from the end into windows of `max_length` inputs. A window's
targets are its inputs shifted by one, so windows overlap by one position, and every position
but a user's first is a target exactly once. Windows are padded on the right (see backbones).

    B batch, L sequence length, W windows, N counted positions, V items, K soft-target entries
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from schemas.errors import DataError
from schemas.settings import TrainingSettings
from trainer.histories import Histories
from trainer.losses import Examples
from trainer.soft_targets import SoftTargets

BATCHES_PER_BUCKET = 16
"""Batches over which windows are sorted by length, so that a batch's windows are about as long."""


@dataclass(frozen=True)
class Batch:
    """Inputs, and what should follow those of their positions that count in the loss.

    Shapes: `items_BL` int64; `positions_N` int64, the counted places of the flattened batch
    (row · L + column), ascending; `examples` one row per counted position.
    """

    items_BL: Tensor
    positions_N: Tensor
    examples: Examples


def training_prefix(sequences: pa.Table) -> Histories:
    """The training positions of every row of the sequences table, in its order."""
    lists = sequences["item_indices"].combine_chunks()
    starts = lists.offsets.to_numpy()[:-1].astype(np.int64)
    items = lists.values.to_numpy().astype(np.int64)
    return Histories(items, starts, starts + sequences["num_train"].to_numpy())


class TrainingWindows:
    """All training windows of a night, and batches of them in a seeded order.

    Args:
        histories: Training positions, user by user.
        soft_targets: What to look examples up in; its users are those of `histories`.
        settings: `max_length`, `targets`, `batch_size` and `seed`.

    Raises:
        DataError: No position counts in the loss.
    """

    def __init__(
        self, histories: Histories, soft_targets: SoftTargets, settings: TrainingSettings
    ) -> None:
        self.histories, self.soft_targets, self.settings = histories, soft_targets, settings
        self.is_target = _targets(histories, only_new=settings.targets == "new")
        users, starts, stops = _windows(histories, settings.max_length)
        num_before = np.concatenate([[0], np.cumsum(self.is_target)])
        has_target = num_before[stops + 1] > num_before[starts + 1]
        self.users, self.inputs = (
            users[has_target],
            Histories(histories.items, starts[has_target], stops[has_target]),
        )
        if not len(self.inputs):
            raise DataError(
                f"no training target among {histories.lengths.sum()} training positions",
                "users with two training positions or more",
                "more history (events.history_days), or training.targets = 'all'",
            )

    def target_counts(self, num_items: int) -> np.ndarray:
        """How often each item is a counted target in one epoch. [V + 1] int64."""
        return np.bincount(self.histories.items[self.is_target], minlength=num_items + 1)

    @property
    def num_batches(self) -> int:
        """Optimiser steps of one epoch."""
        return -(-len(self.inputs) // self.settings.batch_size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from `first_batch` on.

        The order depends on seed and epoch alone, so that an interrupted epoch continues with
        the batches that were left.
        """
        order = np.random.default_rng([self.settings.seed, epoch])
        for windows in self._shuffled(order)[first_batch:]:
            yield self._batch(windows)

    def _shuffled(self, order: np.random.Generator) -> list[np.ndarray]:
        windows, size = order.permutation(len(self.inputs)), self.settings.batch_size
        bucket = size * BATCHES_PER_BUCKET
        lengths = self.inputs.lengths[windows]
        by_length = np.lexsort((lengths, np.arange(len(windows)) // bucket))
        batches = np.split(windows[by_length], range(size, len(windows), size))
        return [batches[b] for b in order.permutation(len(batches))]

    def _batch(self, windows: np.ndarray) -> Batch:
        inputs = self.inputs.take(windows)
        items_BL, lengths = inputs.last(self.settings.max_length)
        columns = np.arange(items_BL.shape[1])
        at_BL = np.where(columns < lengths[:, None], inputs.starts[:, None] + columns + 1, -1)
        positions = np.flatnonzero((at_BL >= 0) & self.is_target[at_BL])
        targets = self.histories.items[at_BL.ravel()[positions]]
        users = self.users[windows][positions // len(columns)]
        return Batch(
            torch.from_numpy(items_BL),
            torch.from_numpy(positions),
            self.soft_targets.examples(torch.from_numpy(targets), torch.from_numpy(users)),
        )


def _windows(histories: Histories, max_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, first and one past the last input position of every window."""
    num_windows = -(-(histories.lengths - 1) // max_length)
    users = np.repeat(np.arange(len(histories)), num_windows)
    nth_from_first = np.arange(len(users)) - np.repeat(
        np.cumsum(num_windows) - num_windows, num_windows
    )
    nth_from_last = num_windows[users] - 1 - nth_from_first
    stops = histories.stops[users] - 1 - nth_from_last * max_length
    return users, np.maximum(stops - max_length, histories.starts[users]), stops


def _targets(histories: Histories, *, only_new: bool) -> np.ndarray:
    """Which entries of `histories.items` count as targets. [positions] bool.

    All training positions but a user's first; `only_new` takes those alone whose item the user
    had never had before, which is what evaluation without seen items asks of a model.
    """
    users, items = histories.positions()
    first = np.cumsum(histories.lengths) - histories.lengths
    counts = np.ones(len(users), dtype=bool)
    if only_new:
        _, first_occurrences = np.unique(users * (items.max() + 1) + items, return_index=True)
        counts[:] = False
        counts[first_occurrences] = True
    counts[first] = False
    is_target = np.zeros(len(histories.items) + 1, dtype=bool)
    is_target[np.arange(len(users)) + (histories.starts - first)[users]] = counts
    return is_target[:-1]
