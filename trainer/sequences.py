"""Sequences: the night's sequences table, read a few thousand users at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.partitions import Partition
from trainer.actions import Actions, training_actions

LENGTHS = ("num_train", "num_validation")


@dataclass(frozen=True)
class Facts:
    """What one pass over all users finds."""

    num_users: int
    num_validating: int
    """Users with validation positions."""
    greatest_item: int
    trained_until: date
    """The last day that has training or validation actions."""


@dataclass
class Sequences:
    """A published night of the sequences table; nothing in here holds all of its users."""

    partition: Partition

    def actions(self, *, with_validation: bool = False) -> Iterator[Actions]:
        """Training positions of all users, chunk by chunk, as `training_actions` gives them."""
        columns = ("item_indices", "event_times", *LENGTHS)
        for chunk in self.partition.batches(columns):
            yield training_actions(chunk, with_validation=with_validation)

    def user_ids(self) -> Iterator[pa.ChunkedArray]:
        """Raw ids of all users, chunk by chunk, ascending."""
        for chunk in self.partition.batches(("user_id",)):
            yield chunk["user_id"]

    def validating(self, limit: int, seed: int) -> tuple[np.ndarray, pa.Table]:
        """Users that have validation positions, all or a seeded sample of at most `limit`.

        Returns:
            Their numbers among all users, int64 ascending, and their rows without times.
        """
        numbers = np.arange(self.facts.num_validating)
        if len(numbers) > limit:
            numbers = np.random.default_rng(seed).permutation(numbers)[:limit]
        users, kept, num_before, first = [], [], 0, 0
        for chunk in self.partition.batches(("item_indices", *LENGTHS)):
            validates = np.flatnonzero(chunk["num_validation"].to_numpy() > 0)
            is_chosen = np.isin(np.arange(num_before, num_before + len(validates)), numbers)
            users.append(first + validates[is_chosen])
            kept.append(chunk.take(validates[is_chosen]))
            num_before, first = num_before + len(validates), first + chunk.num_rows
        return np.concatenate(users), pa.concat_tables(kept).combine_chunks()

    @cached_property
    def facts(self) -> Facts:
        """Facts of the whole table."""
        num_users = num_validating = greatest = 0
        until = date.min
        for chunk in self.partition.batches(("item_indices", "event_times", *LENGTHS)):
            num_users += chunk.num_rows
            num_validating += pc.sum(pc.greater(chunk["num_validation"], 0)).as_py() or 0
            items = chunk["item_indices"].combine_chunks().flatten()
            greatest = max(greatest, pc.max(items).as_py() or 0)
            until = max(until, _last_day(chunk))
        return Facts(num_users, num_validating, greatest, until)


def _last_day(sequences: pa.Table) -> date:
    times = sequences["event_times"].combine_chunks()
    num_seen = sum(sequences[name].to_numpy().astype(np.int64) for name in LENGTHS)
    last = (times.offsets.to_numpy()[:-1] + num_seen - 1)[num_seen > 0]
    latest = pc.max(times.values.take(pa.array(last))).as_py()
    return latest.date() if latest else date.min
