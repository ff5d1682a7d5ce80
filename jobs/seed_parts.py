"""Seed parts: the tasks of soft targets, each from a range of seeds to a part file."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.diagnostics import Shape, hits, popularity_ranks, shape
from jobs.parts import write_part
from jobs.propagation import Block, Trace, mix, propagate, transition
from jobs.shared_rows import Rows, SharedRows
from schemas.errors import DataError
from schemas.partitions import Partition
from schemas.settings import SoftTargetsSettings
from schemas.soft_targets import SOFT_TARGETS


@dataclass(frozen=True)
class Seeds:
    """The range of seeds of one task, in key order: rows [start, stop) of the items by id, or of
    a row group of sequences."""

    number: int
    start: int
    stop: int
    file: Path | None = None
    row_group: int = 0


@dataclass(frozen=True)
class Work:
    """What all tasks of a night share; the matrices are on the shared file system."""

    settings: SoftTargetsSettings
    staging: Path
    graph_files: tuple[Path, ...]
    items_files: tuple[Path, ...]
    num_items: int

    @property
    def graph(self) -> SharedRows:
        """S."""
        return SharedRows(self.staging, "graph")

    @property
    def item_rows(self) -> SharedRows:
        """P."""
        return SharedRows(self.staging, "item_rows")


@dataclass(frozen=True)
class Users:
    """N users of a task, in key order: training histories and validation items, ends and items."""

    ids: pa.ChunkedArray
    histories: tuple[NDArray[np.int64], NDArray[np.int32]]
    validation: tuple[NDArray[np.int64], NDArray[np.int32]]


def share_graph(work: Work) -> int:
    """Writes S for all tasks to map, one part file of the graph after the other; its bytes."""
    work.graph.append(_transition_pieces(work))
    return work.graph.num_bytes()


def _transition_pieces(work: Work) -> Iterator[Rows]:
    names, first = ["item_index", "neighbour_index", "weight"], 0
    for number, file in enumerate(work.graph_files, start=1):
        read = pq.ParquetFile(file).read(names)
        item, *edges = (read[name].to_numpy() for name in names)
        if item[0] < first:
            raise DataError(
                f"edges of item {item[0]} in two part files of item_graph",
                "all edges of an item in one",
                f"re-run python -m jobs.item_graph, which wrote {file}",
            )
        end = work.num_items + 1 if number == len(work.graph_files) else int(item[-1]) + 1
        yield transition(first, end, item, *edges)
        first = end


def share_item_rows(work: Work) -> None:
    """Writes P for all tasks to map, from the parts of items, which are in the order of ids."""
    by_id = catalogue(work.items_files)["item_index"].to_numpy()
    lengths, pieces, start = np.zeros(work.num_items + 1, np.int64), [], 0
    for file in sorted(work.staging.glob("part-item-*")):
        column = pq.ParquetFile(file).read(["item_indices"])["item_indices"]
        numbers = by_id[start : start + len(column)]
        lengths[numbers] = pc.list_value_length(column).to_numpy()
        pieces.append((numbers, file))
        start += len(column)
    work.item_rows.scatter(lengths, ((numbers, read_masses(file)) for numbers, file in pieces))


def read_masses(file: Path) -> Rows:
    """The rows of a staged part."""
    table = pq.ParquetFile(file).read(["item_indices", "masses"])
    indices, masses = (table[name].combine_chunks() for name in table.column_names)
    ends = np.concatenate([[0], np.cumsum(pc.list_value_length(indices).to_numpy())])
    return ends, indices.flatten().to_numpy(), masses.flatten().to_numpy().astype(np.float64)


@lru_cache(maxsize=1)
def catalogue(items_files: tuple[Path, ...]) -> pa.Table:
    """`item_id` and `item_index` of all items, sorted by id; once per worker process."""
    names = ["item_id", "item_index"]
    items = pa.concat_tables([pq.ParquetFile(file).read(names) for file in items_files])
    return items.sort_by("item_id").combine_chunks()


@lru_cache(maxsize=1)
def item_popularity(items_files: tuple[Path, ...]) -> NDArray[np.int64]:
    """Rank of every item by training support, [V + 1]."""
    names = ["item_index", "support"]
    items = pa.concat_tables([pq.ParquetFile(file).read(names) for file in items_files])
    support = np.zeros(items.num_rows + 1, np.int64)
    support[items["item_index"].to_numpy()] = items["support"].to_numpy()
    return popularity_ranks(support)


def item_seeds(seeds: Seeds, work: Work) -> tuple[pa.Table, NDArray[np.int32]]:
    """Ids and indices of a task's items."""
    rows = catalogue(work.items_files).slice(seeds.start, seeds.stop - seeds.start)
    return rows, rows["item_index"].to_numpy()


def write_items(seeds: Seeds, work: Work) -> tuple[Shape, Trace]:
    """Propagates from this task's items over the mapped graph and writes its part."""
    _, indices = item_seeds(seeds, work)
    block, trace = propagate(indices, work.graph.open(), work.settings)
    return write_item_block(seeds, block, work), trace


def write_item_block(seeds: Seeds, block: Block, work: Work) -> Shape:
    """Writes the part of this task's items from their propagated rows."""
    items, indices = item_seeds(seeds, work)
    rows = _write(work.staging, "item", seeds.number, items["item_id"], block)
    return shape(rows, indices, np.arange(len(indices) + 1), work.num_items + 1)


def read_users(seeds: Seeds) -> Users:
    """The users of a task."""
    names = ["user_id", "item_indices", "num_train", "num_validation"]
    group = pq.ParquetFile(seeds.file).read_row_group(seeds.row_group, names)
    users = group.slice(seeds.start, seeds.stop - seeds.start)
    lists = users["item_indices"].combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    num_train, num_validation = (users[name].to_numpy() for name in names[2:])
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = lists.flatten().to_numpy(zero_copy_only=False)
    train_end = np.repeat(num_train, lengths)
    is_train = position < train_end
    is_validation = ~is_train & (position < train_end + np.repeat(num_validation, lengths))
    return Users(
        users["user_id"],
        (_ends(num_train), items[is_train]),
        (_ends(num_validation), items[is_validation]),
    )


def mean_history(sequences: Partition) -> float:
    """Training actions per user."""
    columns = (pq.ParquetFile(file).read(["num_train"])["num_train"] for file in sequences.files)
    return sum(pc.sum(column).as_py() for column in columns) / sequences.manifest.rows


def write_users(seeds: Seeds, work: Work) -> Shape:
    """Mixes the rows of this task's users from the mapped rows of items and writes its part."""
    users = read_users(seeds)
    ends, histories = users.histories
    block = mix(histories, np.diff(ends), work.item_rows.open(), work.settings)
    return write_user_block(seeds, block, work)


def write_user_block(seeds: Seeds, block: Block, work: Work) -> Shape:
    """Writes the part of this task's users from their mixed rows."""
    users = read_users(seeds)
    ends, histories = users.histories
    rows = _write(work.staging, "user", seeds.number, users.ids, block)
    return shape(rows, histories, ends, work.num_items + 1)


def count_hits(seeds: Seeds, work: Work) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of this task's users, hits among the rows of their last items and among their own rows."""
    users = read_users(seeds)
    ends, histories = users.histories
    ranks = item_popularity(work.items_files)
    shared = (users.histories, users.validation, ranks)
    by_item = hits(work.item_rows.open(), histories[ends[1:] - 1].astype(np.int64), *shared)
    if not work.settings.user_seeds:
        return by_item, np.zeros_like(by_item)
    own_rows = read_masses(work.staging / f"part-user-{seeds.number:05d}.parquet")
    return by_item, hits(own_rows, np.arange(len(users.ids)), *shared)


def _ends(lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _write(staging: Path, kind: str, number: int, ids: pa.ChunkedArray, block: Block) -> Rows:
    """Writes a part of the table; returns its rows."""
    rows = ends, columns, masses = block.as_rows()
    starts = pa.array(ends.astype(np.int32))
    lists = {"item_indices": columns, "masses": masses.astype(np.float32)}
    table = {
        "kind": pa.array([kind] * len(ids)),
        "seed_id": ids,
        **{name: pa.ListArray.from_arrays(starts, pa.array(v)) for name, v in lists.items()},
        "dropped_mass": block.dropped().astype(np.float32),
    }
    write_part(staging, kind, number, SOFT_TARGETS, table)
    return rows
