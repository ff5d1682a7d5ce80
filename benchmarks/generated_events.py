"""Generated events: a catalogue and its users' histories at any size, the same on every machine.

    python -m benchmarks.generated_events 5000000 --root var/bench/5000000

A user has 50 actions on average and an item is in 100 of them. Lengths of histories and
popularity of items follow power laws. Items belong to one cluster each and users to a few, from
which four of five actions come, in proportion to popularity; the fifth strays over the whole
catalogue. Clusters are as large at every size, so that a larger world has more of them.
Publishes `items` and `sequences`, which graph and soft targets read.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.audit import file_sha256
from schemas.items import ITEMS
from schemas.partitions import Partition, find
from schemas.publishing import draft, new_token, publish
from schemas.sequences import SEQUENCES

DS = date(2017, 10, 31)
NUM_DAYS = 60
SPAN = NUM_DAYS * 86_400_000_000
"""Microseconds in which all actions lie; they end with `DS`."""
START = int(datetime.combine(DS, time(), UTC).timestamp()) * 1_000_000 + 86_400_000_000 - SPAN

ACTIONS_PER_USER, ACTIONS_PER_ITEM = 50, 100
SHORTEST, LONGEST = 3, 1002
"""Actions of a user: one of each split at least, and at most 1,000 to train on."""
LENGTH_EXPONENT = 1.5
"""Share of users with more than n actions falls like n to the minus this."""
POPULARITY_EXPONENT, POPULARITY_SHIFT = 0.9, 10
"""The r-th most popular item is acted on like (r + shift) to the minus exponent."""
ITEMS_PER_CLUSTER, CLUSTERS_PER_USER = 250, 3
STRAY_SHARE = 0.2
"""Actions that come from the whole catalogue instead of the user's clusters."""


@dataclass(frozen=True)
class World:
    """What is generated: equal worlds have equal tables; users are written a group at a time."""

    num_interactions: int
    seed: int = 17
    users_per_group: int = 20_000

    @property
    def num_users(self) -> int:
        """U, 50 actions each on average."""
        return max(self.num_interactions // ACTIONS_PER_USER, 1)

    @property
    def num_items(self) -> int:
        """V, in 100 actions each on average."""
        return max(self.num_interactions // ACTIONS_PER_ITEM, 1)

    @property
    def notes(self) -> dict[str, object]:
        """For manifests: this world, and the digest of the code that makes it."""
        return asdict(self) | {"generator": file_sha256(Path(__file__))}


@dataclass(frozen=True)
class Tastes:
    """Popularity by slot, cluster after cluster: slot s of V holds item `item_at[s]`.

    `ends` [V + 1] is cumulative popularity from 0 to 1, `cluster_ends` [C + 1] the same at the
    bounds of clusters.
    """

    item_at: NDArray[np.int32]
    ends: NDArray[np.float64]
    cluster_ends: NDArray[np.float64]


def tastes(world: World) -> Tastes:
    """Draws which items are popular and which share a cluster; neither shows in an index."""
    generator = np.random.default_rng([world.seed, 0])
    item_at = (generator.permutation(world.num_items) + 1).astype(np.int32)
    popularity = (np.arange(1, world.num_items + 1) + POPULARITY_SHIFT) ** -POPULARITY_EXPONENT
    ends = np.concatenate([[0], np.cumsum(generator.permutation(popularity))])
    ends /= ends[-1]
    bounds = np.arange(0, world.num_items, ITEMS_PER_CLUSTER)
    return Tastes(item_at, ends, ends[np.append(bounds, world.num_items)])


def history_lengths(world: World) -> NDArray[np.int64]:
    """Actions of every user, in a power law between the bounds; they sum to the world's size.

    Raises:
        ValueError: The world is too small for its bounds.
    """
    if world.num_interactions < SHORTEST * world.num_users:
        raise ValueError(f"found {world.num_interactions} interactions; expected {SHORTEST} a user")
    generator = np.random.default_rng([world.seed, 1])
    ratio = generator.random(world.num_users) ** (-1 / LENGTH_EXPONENT)
    low, high = 0.0, float(ACTIONS_PER_USER)
    for _ in range(50):
        scale = (low + high) / 2
        lengths = np.clip(ratio * scale, SHORTEST, LONGEST).astype(np.int64)
        low, high = (low, scale) if lengths.sum() > world.num_interactions else (scale, high)
    lengths = np.clip(ratio * low, SHORTEST, LONGEST).astype(np.int64)
    room = np.flatnonzero(lengths < LONGEST)
    lengths[room[: world.num_interactions - int(lengths.sum())]] += 1
    return lengths


def draw_actions(
    taste: Tastes, lengths: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Items and times (microseconds since 1970) of users one after the other, oldest first."""
    num_actions = int(lengths.sum())
    user = np.repeat(np.arange(len(lengths)), lengths)
    draws = generator.random((len(lengths), CLUSTERS_PER_USER))
    clusters = np.searchsorted(taste.cluster_ends, draws, side="right") - 1
    cluster = clusters[user, generator.integers(0, CLUSTERS_PER_USER, num_actions)]
    is_stray = generator.random(num_actions) < STRAY_SHARE
    low = np.where(is_stray, 0.0, taste.cluster_ends[cluster])
    high = np.where(is_stray, 1.0, taste.cluster_ends[cluster + 1])
    point = low + (high - low) * generator.random(num_actions)
    slot = np.searchsorted(taste.ends, point, side="right") - 1
    items = taste.item_at[np.minimum(slot, len(taste.item_at) - 1)]
    times = np.sort(user * SPAN + generator.integers(0, SPAN, num_actions)) - user * SPAN
    return items, START + times


class Catalogue:
    """Collects support and times of training actions, item by item; vectors of V + 1."""

    def __init__(self, num_items: int) -> None:
        self.support = np.zeros(num_items + 1, np.int64)
        self.first = np.full(num_items + 1, START + SPAN - 1)
        self.last = np.full(num_items + 1, START)

    def add(self, items: NDArray[np.int32], times: NDArray[np.int64]) -> None:
        """Counts some training actions."""
        self.support += np.bincount(items, minlength=len(self.support))
        np.minimum.at(self.first, items, times)
        np.maximum.at(self.last, items, times)

    def table(self) -> pa.Table:
        """The rows of ITEMS; an item without training actions was seen at the end."""
        index = np.arange(1, len(self.support), dtype=np.int32)
        last = np.maximum(self.last, self.first)[1:]
        columns = [index, raw_ids("i", index), self.support[1:], self.first[1:], last]
        return pa.table([pa.array(c) for c in columns], names=ITEMS.schema.names).cast(ITEMS.schema)


def groups(world: World, catalogue: Catalogue) -> Iterator[pa.Table]:
    """The rows of SEQUENCES, a group of users at a time; training actions go to the catalogue."""
    taste, all_lengths = tastes(world), history_lengths(world)
    for number, first in enumerate(range(0, world.num_users, world.users_per_group)):
        generator = np.random.default_rng([world.seed, 2, number])
        lengths = all_lengths[first : first + world.users_per_group]
        items, times = draw_actions(taste, lengths, generator)
        ends = np.cumsum(lengths)
        is_train = np.ones(len(items), bool)
        is_train[ends - 1] = is_train[ends - 2] = False
        catalogue.add(items[is_train], times[is_train])
        starts = pa.array(np.concatenate([[0], ends]).astype(np.int32))
        one_each = np.ones(len(lengths), np.int32)
        event_times = pa.array(times).cast(SEQUENCES.schema.field("event_times").type.value_type)
        columns = [
            raw_ids("u", np.arange(first, first + len(lengths))),
            *(
                pa.ListArray.from_arrays(starts, values)
                for values in (pa.array(items), event_times)
            ),
            pa.array((lengths - 2).astype(np.int32)),
            pa.array(one_each),
            pa.array(one_each),
        ]
        yield pa.table(columns, schema=SEQUENCES.schema)


def raw_ids(prefix: str, numbers: NDArray[np.signedinteger]) -> pa.Array:
    """Raw ids whose order is that of the numbers."""
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise(prefix, digits, "")


def generate(root: Path, world: World) -> tuple[Partition, Partition]:
    """Publishes items and sequences of `DS` under a root, unless this world is there already."""
    found = find(root, ITEMS, DS), find(root, SEQUENCES, DS)
    if found[0] and found[1] and all(p and p.manifest.notes == world.notes for p in found):
        return found[0], found[1]
    catalogue, token = Catalogue(world.num_items), new_token()
    sequences = draft(root, SEQUENCES, DS, token)
    file = sequences.path / "part-00000.parquet"
    with pq.ParquetWriter(file, SEQUENCES.schema, compression="zstd") as writer:
        for group in groups(world, catalogue):
            writer.write_table(group, row_group_size=world.users_per_group)
    items = draft(root, ITEMS, DS, token)
    items.write(catalogue.table())
    items.notes |= world.notes
    sequences.notes |= world.notes
    return publish(items, DS), publish(sequences, DS)


def main(arguments: Sequence[str]) -> None:
    """Generates the world that the command line names."""
    parser = argparse.ArgumentParser("python -m benchmarks.generated_events", description=__doc__)
    parser.add_argument("num_interactions", type=int)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=World.seed)
    parser.add_argument("--users-per-group", type=int, default=World.users_per_group)
    options = parser.parse_args(arguments)
    world = World(options.num_interactions, options.seed, options.users_per_group)
    items, sequences = generate(options.root, world)
    print(f"{items.manifest.rows:,} items, {sequences.manifest.rows:,} users in {options.root}")


if __name__ == "__main__":
    main(sys.argv[1:])
