"""Positions: all training histories as one flat file that every task maps into memory.

    0 x_1 … x_n 0 x_1 … x_m 0        one user after the other, oldest first, 0 between users

Tasks write their users at offsets that are known beforehand, so no history passes the driver,
and worker processes of one machine share the pages. Next to the items may stand strengths,
s_p = √a(n_u) · exp(-age_p / 2τ), where users are damped or actions age; otherwise all are 1.
"""

import os
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from schemas.settings import ItemGraphSettings

FRACTION_BITS = 40
"""An item's weights are summed as whole units and a fraction in units of 2^-40."""

SUMS = ("actions", "own_whole", "own_fraction", "frequency_whole", "frequency_fraction")
"""Rows of a task's sums over its users, int64 [5, V + 1]."""


@dataclass(frozen=True)
class Slice:
    """Users of one row group of sequences, and where their positions belong in the flat file."""

    number: int
    file: Path
    row_group: int
    offset: int


@dataclass(frozen=True)
class Histories:
    """How histories become positions, and where the flat files are."""

    folder: Path
    num_items: int
    settings: ItemGraphSettings
    ds: date

    @property
    def has_strengths(self) -> bool:
        """Whether actions differ in strength."""
        return self.settings.time_decay_days > 0 or self.settings.user_damping > 0

    @property
    def columns(self) -> list[str]:
        """The columns of sequences that are read; times only where time decays."""
        return ["item_indices", "num_train", *["event_times"] * (self.settings.time_decay_days > 0)]

    def create(self, num_positions: int) -> None:
        """Makes the empty files, 0 before and after every user."""
        for path, size in ((self._items, 4), (self._strengths, 8)):
            with path.open("wb") as file:
                file.truncate(size * num_positions if size == 4 or self.has_strengths else 0)

    def open(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Items and strengths, mapped read-only; no strengths where all are 1."""
        items = np.memmap(self._items, np.int32, "r")
        if not self.has_strengths:
            return items, np.empty(0)
        return items, np.memmap(self._strengths, np.float64, "r")

    def write(self, part: Slice) -> None:
        """Writes the positions of a slice's users, and the sums over them beside."""
        users = pq.ParquetFile(part.file).read_row_group(part.row_group, self.columns)
        items, lengths, strengths = training_actions(users, self.settings, self.ds)
        # One 0 follows every user.
        place = np.arange(len(items)) + np.repeat(np.arange(len(lengths)), lengths)
        num_places = len(items) + len(lengths)
        for path, values in ((self._items, items), (self._strengths, strengths)):
            if values is strengths and not self.has_strengths:
                continue
            flat = np.zeros(num_places, values.dtype)
            flat[place] = values
            # Not for reading, too: NFS would fill up the pages that two machines share.
            with os.fdopen(os.open(path, os.O_WRONLY), "wb") as file:
                file.seek(part.offset * values.itemsize)
                file.write(flat.tobytes())
        np.save(self._sums(part.number), sum_items(items, lengths, strengths, self.num_items))

    def read_sums(self, num_slices: int) -> NDArray[np.int64]:
        """The sums of all slices, int64 [5, V + 1] as `SUMS` names them, fractions carried over."""
        sums = np.zeros((len(SUMS), self.num_items + 1), np.int64)
        for number in range(num_slices):
            sums += np.load(self._sums(number))
            for whole, fraction in ((1, 2), (3, 4)):
                sums[whole] += sums[fraction] >> FRACTION_BITS
                sums[fraction] &= (1 << FRACTION_BITS) - 1
        return sums

    @property
    def _items(self) -> Path:
        return self.folder / "items.i32"

    @property
    def _strengths(self) -> Path:
        return self.folder / "strengths.f64"

    def _sums(self, number: int) -> Path:
        return self.folder / f"sums-{number:05d}.npy"


def training_actions(
    users: pa.Table, settings: ItemGraphSettings, ds: date
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
    """The first `num_train` actions of every user.

    Args:
        users: Columns `item_indices`, `num_train` and, where time decays, `event_times`.
        settings: Damping and time decay.
        ds: The night's date; ages count from the midnight that ends it.

    Returns:
        Items of all users one after the other, actions per user, and the strength of each action.
    """
    histories = users["item_indices"].combine_chunks()
    lengths = pc.list_value_length(histories).to_numpy(zero_copy_only=False).astype(np.int64)
    num_train = np.minimum(users["num_train"].to_numpy(), lengths)
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_train = position < np.repeat(num_train, lengths)
    items = histories.flatten().to_numpy(zero_copy_only=False)[is_train]
    damping = np.maximum(num_train, 1).astype(np.float64) ** (-settings.user_damping / 2)
    strengths = np.repeat(damping, num_train)
    if settings.time_decay_days:
        times = users["event_times"].combine_chunks().flatten().cast(pa.int64()).to_numpy()
        midnight = datetime.combine(ds, time()) + timedelta(days=1)
        end = (midnight - datetime(1970, 1, 1)) // timedelta(microseconds=1)
        age_days = np.maximum(end - times[is_train], 0) / 86_400e6
        strengths = strengths * np.exp(-age_days / (2 * settings.time_decay_days))
    return items, num_train.astype(np.int64), strengths


def sum_items(
    items: NDArray[np.int32],
    lengths: NDArray[np.int64],
    strengths: NDArray[np.float64],
    num_items: int,
) -> NDArray[np.int64]:
    """Per item its actions, own weight m(i) and frequency f(i) over some users.

    m(i) = Σ_u (Σ_{p: x_p = i} s_p)² and f(i) = Σ_u Σ_{p: x_p = i} s_p, each user's part rounded
    once, so that sums do not depend on how users are spread over tasks.

    Returns:
        int64 [5, V + 1], as `SUMS` names the rows.
    """
    sums = np.zeros((len(SUMS), num_items + 1), np.int64)
    _sum_items(items, lengths, strengths, sums)
    return sums


@njit(cache=True)
def _sum_items(items, lengths, strengths, sums):  # type: ignore[no-untyped-def]
    mass = np.zeros(sums.shape[1])
    unit = 2.0**FRACTION_BITS
    start = 0
    for length in lengths:
        for place in range(start, start + length):
            mass[items[place]] += strengths[place]
            sums[0, items[place]] += 1
        for place in range(start, start + length):
            item = items[place]
            found = mass[item]
            mass[item] = 0.0
            for row, value in ((1, found * found), (3, found)):
                whole = np.int64(value)
                sums[row, item] += whole
                sums[row + 1, item] += np.int64(np.rint((value - whole) * unit))
        start += length
