"""Seed parts: the tasks of soft targets, each from the seeds of one partition to a part file."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from jobs.parts import task_number, write_part
from jobs.propagation import SEEDS_AT_ONCE, Trace, join_traces, mix, propagate, read_transition
from schemas.settings import SoftTargetsSettings
from schemas.soft_targets import SOFT_TARGETS

TRACE_SCHEMA = pa.schema(
    [
        ("rows", pa.int64()),
        ("dropped_mass", pa.float64()),
        ("residual", pa.list_(pa.float64())),
        ("active", pa.list_(pa.int64())),
        ("held", pa.list_(pa.int64())),
        ("dropped", pa.list_(pa.float64())),
        ("num_unconverged", pa.int64()),
    ]
)
"""What a task says about its part: rows, their dropped mass, and the `Trace` of its iterations."""


def write_item_part(
    batches: Iterable[pa.RecordBatch],
    graph_files: tuple[Path, ...],
    num_items: int,
    settings: SoftTargetsSettings,
    staging: Path,
) -> Iterator[pa.RecordBatch]:
    """Propagates from this task's items (`item_id` ascending, `item_index`) and writes its part."""
    table = pa.Table.from_batches(batches) if (batches := list(batches)) else None
    if table is None or not table.num_rows:
        return
    graph = read_transition(graph_files, num_items)
    seeds = table["item_index"].to_numpy()
    slices = [seeds[n : n + SEEDS_AT_ONCE] for n in range(0, len(seeds), SEEDS_AT_ONCE)]
    blocks, traces = zip(*(propagate(block, graph, settings) for block in slices), strict=True)
    trace = join_traces(traces)
    mass = sparse.vstack(blocks, format="csr")
    dropped = _write(staging, "item", table["item_id"], mass)
    yield _report(dropped, trace)


def write_user_part(
    batches: Iterable[pa.RecordBatch],
    items_files: tuple[Path, ...],
    settings: SoftTargetsSettings,
    staging: Path,
) -> Iterator[pa.RecordBatch]:
    """Mixes the rows of this task's users (`user_id` ascending, training `item_indices`)."""
    ids, blocks = [], []
    for batch in batches:
        item_rows = read_item_rows(staging, items_files)
        for start in range(0, batch.num_rows, SEEDS_AT_ONCE):
            users = batch.slice(start, SEEDS_AT_ONCE)
            lengths = pc.list_value_length(users["item_indices"]).to_numpy(zero_copy_only=False)
            histories = users["item_indices"].flatten().to_numpy(zero_copy_only=False)
            blocks.append(mix(histories, lengths, item_rows, settings))
            ids.append(users["user_id"])
    if blocks:
        mass = sparse.vstack(blocks, format="csr")
        dropped = _write(staging, "user", pa.chunked_array(ids), mass)
        yield _report(dropped, Trace.empty())


@lru_cache(maxsize=1)
def read_item_rows(staging: Path, items_files: tuple[Path, ...]) -> sparse.csr_array:
    """P [V + 1, V + 1] from the item parts that this run staged, once per worker process.

    The parts hold the rows in the order of `item_id`; row 0 is empty.
    """
    read_transition.cache_clear()
    items = pa.concat_tables(
        [pq.ParquetFile(f).read(["item_id", "item_index"]) for f in items_files]
    )
    by_id = items.sort_by("item_id")["item_index"].to_numpy()
    names = ["item_indices", "masses"]
    parts = [pq.ParquetFile(file).read(names) for file in sorted(staging.glob("part-item-*"))]
    rows = pa.concat_tables(parts)
    lengths = pc.list_value_length(rows["item_indices"]).to_numpy()
    columns, masses = (rows[name].combine_chunks().flatten().to_numpy() for name in names)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    sorted_rows = sparse.csr_array(
        (masses.astype(np.float64), columns, starts), shape=(len(by_id), len(by_id) + 1)
    )
    empty = sparse.csr_array((1, len(by_id) + 1))
    return sparse.vstack([empty, sorted_rows[np.argsort(by_id)]], format="csr")


def _write(
    staging: Path, kind: str, ids: pa.ChunkedArray, mass: sparse.csr_array
) -> NDArray[np.float64]:
    """Writes the part of this task; returns the dropped mass of its rows."""
    dropped = np.maximum(1 - mass.sum(axis=1), 0)
    lists = {"item_indices": mass.indices.astype(np.int32), "masses": mass.data.astype(np.float32)}
    starts = pa.array(mass.indptr.astype(np.int32))
    columns = {
        "kind": pa.array([kind] * len(ids)),
        "seed_id": ids,
        **{name: pa.ListArray.from_arrays(starts, pa.array(v)) for name, v in lists.items()},
        "dropped_mass": dropped.astype(np.float32),
    }
    write_part(staging, kind, task_number(), SOFT_TARGETS, columns)
    return dropped


def _report(dropped: NDArray[np.float64], trace: Trace) -> pa.RecordBatch:
    row = {"rows": len(dropped), "dropped_mass": dropped.sum(), **trace.as_row()}
    return pa.RecordBatch.from_pylist([row], schema=TRACE_SCHEMA)
