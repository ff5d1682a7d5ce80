"""Pair counts: the exact kernels of the item graph, vectorised over Arrow batches of users.

    w(i,j) = Σ_u a(n_u) Σ_{p<q, q-p ≤ window, x_p≠x_q} γ^(q-p-1) · exp(-age/τ)

A pair's age is the mean age of its two actions, so that exp(-age/τ) is a product of one factor
per action. Every action has the strength s_p = √a(n_u) · exp(-age_p / 2τ), a pair weighs
γ^(q-p-1) s_p s_q, and an item's own weight is m(i) = Σ_u (Σ_{p: x_p = i} s_p)².

Weights are summed as integers, in units of 2^-bits: integer addition is associative, so the
sums do not depend on how users are spread over batches and tasks. Counting is the sparse
product Xᵀ (D X), X positions × items, D the weighted band of the window, which needs no sort.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from schemas.settings import ItemGraphSettings

PAIRS_AT_ONCE = 8_000_000
"""Pairs that one product counts; bounds a task's memory, not the result."""

OWN_FRACTION_BITS = 40
"""An own weight's fraction is summed in units of 2^-40, and whole units are carried over."""

COUNTS_SCHEMA = pa.schema(
    [
        ("bucket", pa.int32()),
        ("degrees", pa.binary()),
        ("neighbours", pa.binary()),
        ("weights", pa.binary()),
    ]
)
"""Some counts of one bucket of items: int32 entries per item of it, int32 columns, int64 units."""

OWN_SCHEMA = pa.schema([(n, pa.int64()) for n in ("item_index", "actions", "whole", "fraction")])
"""One item's actions and own weight, `whole + fraction · 2^-OWN_FRACTION_BITS`, of some users."""


@dataclass(frozen=True)
class Counting:
    """How pairs are counted; `bits` is their unit, `fraction_bits` of all the night's pairs."""

    num_items: int
    settings: ItemGraphSettings
    ds: date
    bits: int

    @property
    def columns(self) -> list[str]:
        """The columns of sequences that are read; times only where time decays."""
        return ["item_indices", "num_train", *["event_times"] * (self.settings.time_decay_days > 0)]


@dataclass(frozen=True)
class Positions:
    """Training positions of a batch of users, user after user, oldest first; N long."""

    items: NDArray[np.int32]
    users: NDArray[np.int64]
    strengths: NDArray[np.float64]


def num_position_pairs(lengths: NDArray[np.int64], window: int) -> int:
    """The exact number of pairs p<q, q-p ≤ window of histories of these lengths."""
    reach = np.minimum(window, np.maximum(lengths.astype(np.int64) - 1, 0))
    return int((reach * lengths - reach * (reach + 1) // 2).sum())


def fraction_bits(num_pairs: int) -> int:
    """Bits after the point with which `num_pairs` weights of at most 1 cannot overflow 64 bits."""
    return min(40, 62 - num_pairs.bit_length())


def training_positions(batch: pa.RecordBatch, counting: Counting) -> Positions:
    """The first `num_train` positions of every user of a batch, with their strengths.

    Args:
        batch: Columns `item_indices`, `num_train` and, where time decays, `event_times`.
        counting: Damping and time decay.
    """
    lengths = pc.list_value_length(batch["item_indices"]).to_numpy(zero_copy_only=False)
    num_train = np.minimum(batch["num_train"].to_numpy(zero_copy_only=False), lengths)
    starts = np.cumsum(lengths) - lengths
    position = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    is_train = position < np.repeat(num_train, lengths)
    items = batch["item_indices"].flatten().to_numpy(zero_copy_only=False)[is_train]
    users = np.repeat(np.arange(len(lengths)), num_train)
    strengths = np.repeat(
        num_train.astype(np.float64) ** (-counting.settings.user_damping / 2), num_train
    )
    if counting.settings.time_decay_days:
        times = batch["event_times"].flatten().cast(pa.int64()).to_numpy(zero_copy_only=False)
        midnight = datetime.combine(counting.ds, time()) + timedelta(days=1)
        end = (midnight - datetime(1970, 1, 1)) // timedelta(microseconds=1)
        age_days = np.maximum(end - times[is_train], 0) / 86_400e6
        strengths = strengths * np.exp(-age_days / (2 * counting.settings.time_decay_days))
    return Positions(items, users, strengths)


def own_weights(batches: Iterable[pa.RecordBatch], counting: Counting) -> Iterator[pa.RecordBatch]:
    """m(i) of the users of some batches, in `OWN_SCHEMA`, for items that occur."""
    width = counting.num_items + 1
    actions, whole, fraction = (np.zeros(width, np.int64) for _ in range(3))
    for batch in batches:
        at = training_positions(batch, counting)
        parts = (at.strengths, at.items, np.searchsorted(at.users, np.arange(batch.num_rows + 1)))
        strengths = sparse.csr_array(parts, shape=(batch.num_rows, width))
        strengths.sum_duplicates()
        own = strengths.data**2
        unit = np.rint(np.ldexp(own - np.floor(own), OWN_FRACTION_BITS)).astype(np.int64)
        np.add.at(whole, strengths.indices, np.floor(own).astype(np.int64))
        np.add.at(fraction, strengths.indices, unit)
        whole += fraction >> OWN_FRACTION_BITS
        fraction &= (1 << OWN_FRACTION_BITS) - 1
        actions += np.bincount(at.items, minlength=width)
    seen = np.flatnonzero(actions)
    columns = [seen, actions[seen], whole[seen], fraction[seen]]
    yield pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=OWN_SCHEMA)


def pair_counts(
    batches: Iterable[pa.RecordBatch], counting: Counting, bounds: NDArray[np.int64]
) -> Iterator[pa.RecordBatch]:
    """Counted pairs of some batches, in `COUNTS_SCHEMA`.

    Args:
        batches: Users, as `training_positions` takes them.
        counting: What a pair weighs.
        bounds: Bucket b holds items [bounds[b], bounds[b + 1]).
    """
    positions_at_once = max(1, PAIRS_AT_ONCE // counting.settings.window)
    for batch in batches:
        at = training_positions(batch, counting)
        for start in range(0, len(at.items), positions_at_once):
            counts = count(at, start, start + positions_at_once, counting)
            for bucket in range(len(bounds) - 1):
                rows = counts[bounds[bucket] : bounds[bucket + 1]]
                if rows.nnz:
                    yield _pack(bucket, rows)


def count(at: Positions, start: int, stop: int, counting: Counting) -> sparse.csr_array:
    """Pairs whose earlier position lies in [start, stop), in units of 2^-bits.

    Returns:
        int64 [V + 1, V + 1], from item to neighbour; symmetric unless `forward`.
    """
    num_positions, width = len(at.items), counting.num_items + 1
    num_left = min(stop, num_positions) - start
    shape = (num_left, counting.settings.window)
    is_pair = np.zeros(shape, bool)
    later, units = np.zeros(shape, np.int32), np.zeros(shape, np.int64)
    for distance in range(1, min(counting.settings.window, num_positions - 1) + 1):
        left = slice(start, min(start + num_left, num_positions - distance))
        right = slice(left.start + distance, left.stop + distance)
        here = slice(0, max(left.stop - left.start, 0))
        if not here.stop:
            break
        is_same_user = at.users[left] == at.users[right]
        is_pair[here, distance - 1] = is_same_user & (at.items[left] != at.items[right])
        later[here, distance - 1] = at.items[right]
        weight = (
            counting.settings.position_decay ** (distance - 1)
            * at.strengths[left]
            * at.strengths[right]
        )
        units[here, distance - 1] = np.rint(np.ldexp(weight, counting.bits))
    pairs_before = np.concatenate([[0], np.cumsum(is_pair.sum(axis=1))])
    band = sparse.csr_array((units[is_pair], later[is_pair], pairs_before), (num_left, width))
    ones, rows = np.ones(num_left, np.int64), np.arange(num_left + 1)
    earlier = sparse.csr_array((ones, at.items[start : start + num_left], rows), (num_left, width))
    forward = earlier.T.tocsr() @ band
    if counting.settings.direction == "forward":
        return forward
    backward = forward.T.tocsr()
    return backward + backward.T.tocsr()


def merge(batches: Iterable[pa.RecordBatch], num_rows: int, num_columns: int) -> sparse.csr_array:
    """The sum of all counts of one bucket: int64 [num_rows, num_columns]."""
    shape = (num_rows, num_columns)
    held = [sparse.csr_array(shape, dtype=np.int64)]
    num_held = 0
    for batch in batches:
        for packed in zip(*(batch[name] for name in COUNTS_SCHEMA.names[1:]), strict=True):
            held.append(_unpack(packed, shape))
            num_held += held[-1].nnz
            if num_held > max(4 * PAIRS_AT_ONCE, 2 * held[0].nnz):
                held = [_sum(held)]
                num_held = held[0].nnz
    return _sum(held)


def _pack(bucket: int, rows: sparse.csr_array) -> pa.RecordBatch:
    degrees = np.diff(rows.indptr).astype(np.int32)
    packed = (degrees, rows.indices.astype(np.int32), rows.data.astype(np.int64))
    arrays = [pa.array([p.tobytes()], pa.binary()) for p in packed]
    return pa.RecordBatch.from_arrays(
        [pa.array([bucket], pa.int32()), *arrays], schema=COUNTS_SCHEMA
    )


def _unpack(packed: tuple[pa.BinaryScalar, ...], shape: tuple[int, int]) -> sparse.csr_array:
    degrees, neighbours, weights = (scalar.as_buffer() for scalar in packed)
    indptr = np.concatenate([[0], np.cumsum(np.frombuffer(degrees, np.int32))])
    columns, units = np.frombuffer(neighbours, np.int32), np.frombuffer(weights, np.int64)
    return sparse.csr_array((units, columns, indptr), shape=shape)


def _sum(blocks: list[sparse.csr_array]) -> sparse.csr_array:
    """Exact sum of matrices of one shape, as a product with ones: linear, where sorting is not."""
    num_blocks, num_rows = len(blocks), blocks[0].shape[0]
    rows = np.arange(num_blocks * num_rows).reshape(num_blocks, num_rows).T.ravel()
    ends = np.arange(0, num_blocks * num_rows + 1, num_blocks)
    ones = np.ones(len(rows), np.int64)
    selector = sparse.csr_array((ones, rows, ends), shape=(num_rows, len(rows)))
    return selector @ sparse.vstack(blocks, format="csr")
