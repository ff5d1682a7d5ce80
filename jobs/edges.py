"""Edges: from the counts of one range of items to the rows of its part of the item graph."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from jobs.normalisers import NORMALISERS, ItemWeights
from jobs.pair_counts import merge
from jobs.parts import task_number, write_part
from jobs.top_k import is_among_top_k
from schemas.item_graph import ITEM_GRAPH
from schemas.settings import ItemGraphSettings

REPORT_SCHEMA = pa.schema(
    [(n, pa.int64()) for n in ("edges", "items_with_edges", "max_degree", "shuffled_bytes")]
)
"""What a task says about the part it wrote."""


@dataclass(frozen=True)
class Pruning:
    """How counts become edges: bucket b holds items [bounds[b], bounds[b + 1])."""

    settings: ItemGraphSettings
    weights: ItemWeights
    bounds: NDArray[np.int64]
    bits: int


def write_bucket(
    batches: Iterable[pa.RecordBatch], pruning: Pruning, staging: Path
) -> Iterator[pa.RecordBatch]:
    """Merges the counts of this task's bucket, writes its part, and reports in `REPORT_SCHEMA`."""
    bucket, received = task_number(), 0

    def measured() -> Iterator[pa.RecordBatch]:
        nonlocal received
        for batch in batches:
            received += batch.nbytes
            yield batch

    first, end = map(int, pruning.bounds[bucket : bucket + 2])
    counts = merge(measured(), end - first, len(pruning.weights.own))
    columns = edges(counts, first, pruning)
    write_part(staging, "edges", bucket, ITEM_GRAPH, columns)
    degrees = np.bincount(columns["item_index"] - first)
    numbers = [degrees.sum(), np.count_nonzero(degrees), degrees.max(initial=0), received]
    yield pa.RecordBatch.from_arrays([pa.array([int(n)]) for n in numbers], schema=REPORT_SCHEMA)


def edges(counts: sparse.csr_array, first: int, pruning: Pruning) -> dict[str, NDArray[Any]]:
    """The columns of ITEM_GRAPH, in key order.

    Args:
        counts: int64 [R, V + 1] in units of 2^-bits; row r is item first + r.
        first: The first item.
        pruning: Normaliser, least pair weight and `top_k`; of equal weights the smaller
            neighbour stays.
    """
    settings = pruning.settings
    pair_weight = np.ldexp(counts.data.astype(np.float64), -pruning.bits)
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    item, neighbour = (first + row).astype(np.int32), counts.indices.astype(np.int32)
    normalise = NORMALISERS[settings.normaliser]
    weight = normalise(pair_weight, item, neighbour, pruning.weights)
    weight = np.where(pair_weight >= settings.min_pair_weight, weight, 0.0)
    weighed = sparse.csr_array((weight, counts.indices, counts.indptr), shape=counts.shape)
    kept = np.flatnonzero(is_among_top_k(weighed, settings.top_k))
    kept = kept[np.lexsort((neighbour[kept], item[kept]))]
    return {
        "item_index": item[kept],
        "neighbour_index": neighbour[kept],
        "pair_weight": pair_weight[kept],
        "weight": weight[kept],
    }
