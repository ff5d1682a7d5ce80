"""Batches: training windows and their examples, cut from sequences and soft targets.

A user's training positions are cut from the end into windows of `max_length` inputs. A window
starts with the input after which the one before ends, so every position but a user's last is
an input exactly once, and with `target_days = 0` every position but a user's first is a target
exactly once. Windows are padded on the right (see backbones).

What is as long as the history lies in flat files; memory holds one number per window.

    B batch, L sequence length, W windows, N counted positions, P positions, V items
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schemas.errors import DataError
from schemas.settings import TrainingSettings
from trainer.actions import Actions, may_be_target, target_reach
from trainer.examples import Examples
from trainer.flat_files import FlatFile
from trainer.histories import Histories
from trainer.soft_targets import SoftTargets

BATCHES_PER_BUCKET = 16
"""Batches over which windows are sorted by length, so that a batch's windows are about as long."""
COUNTED_AT_ONCE = 1_000_000
"""Positions of a flat file that are in memory while targets are counted."""


@dataclass(frozen=True)
class Batch:
    """Inputs, and what should follow those of their positions that count in the loss.

    Shapes: `items_BL` int64; `positions_N` int64, the counted places of the flattened batch
    (row · L + column), ascending; `examples` one row per counted position.
    """

    items_BL: Tensor
    positions_N: Tensor
    examples: Examples

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; the same batch where it is there already."""
        if device.type == "cpu":
            return self
        moved = (_to_device(tensor, device) for tensor in vars(self.examples).values())
        items_BL, positions_N = (_to_device(t, device) for t in (self.items_BL, self.positions_N))
        return Batch(items_BL, positions_N, Examples(*moved))


class TrainingWindows:
    """All training windows of a night, and batches of them in a seeded order.

    Args:
        actions: Training positions, chunk by chunk and user by user.
        soft_targets: What to look examples up in; its users are those of `actions`.
        settings: `max_length`, `targets`, `target_days`, `batch_size` and `seed`.
        folder: Where flat files go; None takes the system's temporary folder.

    Raises:
        DataError: No position counts in the loss.
    """

    def __init__(
        self,
        actions: Iterable[Actions],
        soft_targets: SoftTargets,
        settings: TrainingSettings,
        folder: Path | None = None,
    ) -> None:
        self.soft_targets, self.settings = soft_targets, settings
        writer = _Writer(settings, folder)
        for chunk in actions:
            writer.add(chunk)
        self.candidates, self.first_candidate_P, self.num_candidates_P, self.users = (
            file.mapped() for file in (writer.candidates, writer.first, writer.num, writer.users)
        )
        windows = (file.mapped() for file in (writer.items, writer.starts, writer.stops))
        self.inputs = Histories(*windows)
        if not len(self.inputs):
            raise DataError(
                f"no training target among {writer.num_positions} training positions",
                "users with two training positions or more",
                "more history (events.history_days), or training.targets = 'all'",
            )

    @property
    def num_batches(self) -> int:
        """Optimiser steps of one epoch."""
        return -(-len(self.inputs) // self.settings.batch_size)

    def target_counts(self, num_items: int) -> np.ndarray:
        """How many positions of all history may make each item a target, [V + 1]."""
        counts_V = np.zeros(num_items + 1, dtype=np.int64)
        for first in range(0, len(self.candidates), COUNTED_AT_ONCE):
            some = self.candidates[first : first + COUNTED_AT_ONCE]
            counts_V += np.bincount(some, minlength=num_items + 1)
        return counts_V

    def epoch(
        self, epoch: int, first_batch: int = 0, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """The batches of one epoch, from `first_batch` on.

        Order and drawn targets depend on seed and epoch alone, so that an interrupted epoch
        continues with the batches that were left.

        Args:
            epoch: Its number, from 1.
            first_batch: Batches to leave out.
            share: A rank and how many there are; every window of a batch is one rank's, who
                get windows in turn. A share may be empty.
        """
        order = self._shuffled(np.random.default_rng([self.settings.seed, epoch]))
        for number, windows in enumerate(order[first_batch:], start=first_batch):
            random = np.random.default_rng([self.settings.seed, epoch, number])
            yield self._batch(windows, random, share)

    def _shuffled(self, random: np.random.Generator) -> list[np.ndarray]:
        windows, size = random.permutation(len(self.inputs)), self.settings.batch_size
        bucket = np.arange(len(windows)) // (size * BATCHES_PER_BUCKET)
        by_length = windows[np.lexsort((self.inputs.lengths[windows], bucket))]
        batches = np.split(by_length, range(size, len(windows), size))
        return [batches[b] for b in random.permutation(len(batches))]

    def _batch(
        self, windows: np.ndarray, random: np.random.Generator, share: tuple[int, int]
    ) -> Batch:
        rank, num_ranks = share
        inputs = self.inputs.take(windows)
        targets_BL = self._draw(inputs, random)[rank::num_ranks]
        inputs, windows = inputs.take(slice(rank, None, num_ranks)), windows[rank::num_ranks]
        items_BL, _ = inputs.last(self.settings.max_length)
        length = items_BL.shape[1]
        targets = targets_BL[:, :length].ravel()
        positions = np.flatnonzero(targets)
        users = self.users[windows][positions // length].astype(np.int64)
        return Batch(
            torch.from_numpy(items_BL),
            torch.from_numpy(positions),
            self.soft_targets.examples(
                torch.from_numpy(targets[positions]),
                torch.from_numpy(users),
                torch.from_numpy(items_BL.ravel()[positions]),
            ),
        )

    def _draw(self, inputs: Histories, random: np.random.Generator) -> np.ndarray:
        """One target item per position of a batch's windows, 0 where it has none. [B, L] int64."""
        columns = np.arange(int(inputs.lengths.max()))
        is_real_BL = columns < inputs.lengths[:, None]
        places = (inputs.starts[:, None] + columns)[is_real_BL]
        num_candidates = self.num_candidates_P[places]
        nth = (random.random(len(places)) * num_candidates).astype(np.int64)
        has_target = num_candidates > 0
        targets = np.zeros(len(places), dtype=np.int64)
        chosen = (self.first_candidate_P[places] + nth)[has_target]
        targets[has_target] = self.candidates[chosen]
        targets_BL = np.zeros(is_real_BL.shape, dtype=np.int64)
        targets_BL[is_real_BL] = targets
        return targets_BL


class _Writer:
    """Flat files of positions, of items that may be targets, and of windows, chunk by chunk."""

    def __init__(self, settings: TrainingSettings, folder: Path | None) -> None:
        self.settings, self.num_users = settings, 0
        self.items, self.candidates, self.users = (FlatFile(np.int32, folder) for _ in range(3))
        self.num = FlatFile(np.int32, folder)
        self.first, self.starts, self.stops = (FlatFile(np.int64, folder) for _ in range(3))

    @property
    def num_positions(self) -> int:
        return self.items.size

    def add(self, actions: Actions) -> None:
        histories = actions.histories
        is_candidate_P = may_be_target(actions, only_new=self.settings.targets == "new")
        num_before = np.concatenate([[0], np.cumsum(is_candidate_P)])
        reach_P = target_reach(actions, self.settings.target_days)
        num_candidates_P = num_before[reach_P] - num_before[1:]
        users, starts, stops = _windows(histories, num_candidates_P, self.settings.max_length)
        self.users.append(users + self.num_users)
        self.starts.append(starts + self.items.size)
        self.stops.append(stops + self.items.size)
        self.num.append(num_candidates_P)
        self.first.append(num_before[1:] + self.candidates.size)
        self.candidates.append(histories.items[is_candidate_P])
        self.items.append(histories.items)
        self.num_users += len(histories)


def _windows(
    histories: Histories, num_candidates_P: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, first and one past the last input of every window with a counted position. [W]."""
    users, starts, stops = _cut(histories, max_length)
    num_before = np.concatenate([[0], np.cumsum(num_candidates_P > 0)])
    counts = num_before[stops] > num_before[starts]
    return users[counts], starts[counts], stops[counts]


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True)


def _cut(histories: Histories, max_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, first and one past the last input position of every window. [W]."""
    num_windows = -(-(histories.lengths - 1) // max_length)
    users = np.repeat(np.arange(len(histories)), num_windows)
    num_later = np.cumsum(num_windows)[users] - 1 - np.arange(len(users))
    stops = histories.stops[users] - 1 - num_later * max_length
    return users, np.maximum(stops - max_length, histories.starts[users]), stops
