"""Histories: the sequences table as flat arrays, sliced by position without loops over users."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import sparse

from schemas.contract import PADDING_INDEX


@dataclass(frozen=True)
class Histories:
    """Item indices of many users, oldest first; user b owns `items[starts[b]:stops[b]]`.

    Shapes: `items` [positions], `starts` and `stops` [users], all int64.
    """

    items: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> np.ndarray:
        """Positions per user."""
        return self.stops - self.starts

    def take(self, users: np.ndarray | slice) -> "Histories":
        """The histories of some users, in the order asked for."""
        return Histories(self.items, self.starts[users], self.stops[users])

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """User number and item index of every position, by user, oldest first."""
        users = np.repeat(np.arange(len(self)), self.lengths)
        first = np.cumsum(self.lengths) - self.lengths
        return users, self.items[np.arange(len(users)) + (self.starts - first)[users]]

    def counts(self, num_items: int) -> sparse.csr_matrix:
        """How often each user acted on each item: [users, num_items + 1] float64, sorted."""
        users, items = self.positions()
        shape = (len(self), num_items + 1)
        matrix = sparse.csr_matrix((np.ones(len(users)), (users, items)), shape=shape)
        matrix.sum_duplicates()
        return matrix

    def renumbered(self, new_index: np.ndarray) -> "Histories":
        """The same actions under other item indices; those that map to padding are dropped.

        Args:
            new_index: By old `item_index`, `PADDING_INDEX` for an item that has no new one.
        """
        users, items = self.positions()
        items = new_index[items]
        is_known = items != PADDING_INDEX
        stops = np.cumsum(np.bincount(users[is_known], minlength=len(self)))
        return Histories(items[is_known], np.concatenate([[0], stops[:-1]]), stops)

    def last(self, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """The most recent positions, padded on the right.

        Returns:
            Items [users, L] with L the longest of these histories up to `max_length` (at least
            1), `PADDING_INDEX` at the end of shorter ones; and lengths [users].
        """
        lengths = np.minimum(self.lengths, max_length)
        columns = np.arange(max(int(lengths.max(initial=1)), 1))
        at = (self.stops - lengths)[:, None] + columns
        is_real = columns < lengths[:, None]
        items = np.full(at.shape, PADDING_INDEX, dtype=np.int64)
        items[is_real] = self.items[at[is_real]]
        return items, lengths


def from_lists(lists: list[np.ndarray]) -> Histories:
    """Histories from one array of item indices per user."""
    stops = np.cumsum([len(items) for items in lists], dtype=np.int64)
    items = np.concatenate([np.empty(0, dtype=np.int64), *lists]).astype(np.int64)
    return Histories(items, np.concatenate([[0], stops[:-1]]).astype(np.int64), stops)


def whole(sequences: pa.Table) -> Histories:
    """All that each user did, user by user as in the sequences table."""
    lists = sequences["item_indices"].combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    items = lists.values.to_numpy(zero_copy_only=False).astype(np.int64)
    return Histories(items, offsets[:-1], offsets[1:])


def split(sequences: pa.Table) -> tuple[Histories, Histories]:
    """What each user did before the holdout (train and validation), and in it."""
    all_time = whole(sequences)
    border = all_time.stops - sequences["num_holdout"].to_numpy().astype(np.int64)
    before = Histories(all_time.items, all_time.starts, border)
    return before, Histories(all_time.items, border, all_time.stops)
