"""Item graph: one row per weighted edge from an item to one of its strongest neighbours.

Reads:    sequences (training positions only), items
Writes:   item_graph
If late:  soft_targets waits; yesterday's champion keeps serving.

Two passes over the training positions: the first weighs single items, the second counts pairs
in every task, shuffles the counts by ranges of items, and merges, normalises and prunes each
range in one task, which writes its part of the table. Only one row per item meets the driver.
"""

from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from jobs.catalogue import check_catalogue
from jobs.edges import REPORT_SCHEMA, Pruning, write_bucket
from jobs.normalisers import ItemWeights
from jobs.pair_counts import (
    COUNTS_SCHEMA,
    OWN_FRACTION_BITS,
    OWN_SCHEMA,
    PAIRS_AT_ONCE,
    Counting,
    fraction_bits,
    num_position_pairs,
    own_weights,
    pair_counts,
)
from jobs.spark import adopt, read, session
from jobs.stopwatch import Stopwatch
from schemas.command import Night, Stage, run
from schemas.errors import DataError
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import Input, Partition, get
from schemas.sequences import SEQUENCES
from schemas.settings import ItemGraphSettings, Settings


def inputs(root: Path, ds: date, settings: Settings) -> Sequence[Input]:
    """Sequences and items of the night."""
    return [get(root, contract, ds).as_input() for contract in (SEQUENCES, ITEMS)]


STAGE = Stage(
    module="jobs.item_graph",
    doc=__doc__,
    writes=(ITEM_GRAPH,),
    inputs=inputs,
    settings=("item_graph",),
)


def main(night: Night) -> None:
    """Counts, merges and publishes the graph of one night."""
    clock, settings = Stopwatch(), night.settings.item_graph
    sequences = get(night.root, SEQUENCES, night.ds)
    num_items = get(night.root, ITEMS, night.ds).manifest.rows
    check_catalogue(sequences, ("item_indices",), num_items)
    num_pairs = count_against_budget(sequences, settings)
    counting = Counting(num_items, settings, night.ds, fraction_bits(num_pairs))
    clock.lap("budget")
    spark = session("item_graph", night.settings.spark)
    clock.lap("start_spark")
    histories = spread(spark, sequences, num_pairs)
    actions, weights = weigh_items(histories, counting)
    clock.lap("item_weights")
    draft = night.draft(ITEM_GRAPH)
    num_buckets = max(night.settings.spark.shuffle_partitions, num_pairs // (2 * PAIRS_AT_ONCE))
    pruning = Pruning(settings, weights, bucket_bounds(actions, num_buckets), counting.bits)
    report = count_pairs(histories, counting, pruning, draft.path / "_staging")
    clock.lap("pairs")
    adopt(draft, draft.path / "_staging")
    without = num_items - report["items_with_edges"]
    notes = {"position_pairs": num_pairs, **report, "items_without": without}
    draft.notes |= notes | {"seconds": clock.seconds}
    night.publish(draft)


def count_against_budget(sequences: Partition, settings: ItemGraphSettings) -> int:
    """The exact number of position pairs of the training histories, from their lengths alone.

    Raises:
        DataError: It is over the budget; no pair was touched and Spark not started.
    """
    num_pairs = longest = 0
    for file in sequences.files:
        for batch in pq.ParquetFile(file).iter_batches(columns=["num_train"]):
            lengths = batch["num_train"].to_numpy().astype(np.int64)
            num_pairs += num_position_pairs(lengths, settings.window)
            longest = max(longest, int(lengths.max(initial=0)))
    if num_pairs > settings.pair_budget:
        raise DataError(
            f"{num_pairs:,} position pairs in sequences of {sequences.manifest.ds}, "
            f"whose longest training history has {longest:,} actions",
            f"at most item_graph.pair_budget = {settings.pair_budget:,}",
            "lower sequences.max_history or "
            f"item_graph.window (now {settings.window}), or raise item_graph.pair_budget",
        )
    return num_pairs


def spread(spark: SparkSession, sequences: Partition, num_pairs: int) -> DataFrame:
    """Histories over tasks: two per core at least, and few enough pairs in each to repeat one."""
    num_tasks = max(2 * spark.sparkContext.defaultParallelism, num_pairs // (8 * PAIRS_AT_ONCE))
    return read(spark, [sequences]).repartition(num_tasks, "user_id")


def weigh_items(histories: DataFrame, counting: Counting) -> tuple[NDArray[np.int64], ItemWeights]:
    """Training actions and own weight of every item, as vectors of V + 1.

    They meet the driver because an edge needs the weights of both its ends, which other tasks
    count; one number per item has to reach every task in any plan.
    """
    kernel = partial(own_weights, counting=counting)
    partial_sums = histories.select(*counting.columns).mapInArrow(
        kernel, from_arrow_schema(OWN_SCHEMA)
    )
    sums = [F.sum(name).alias(name) for name in OWN_SCHEMA.names[1:]]
    found = partial_sums.groupBy("item_index").agg(*sums).toArrow()
    actions, own = np.zeros(counting.num_items + 1, np.int64), np.zeros(counting.num_items + 1)
    seen = found["item_index"].to_numpy()
    actions[seen] = found["actions"].to_numpy()
    fraction = np.ldexp(found["fraction"].to_numpy().astype(np.float64), -OWN_FRACTION_BITS)
    own[seen] = found["whole"].to_numpy() + fraction
    return actions, ItemWeights(own=own)


def bucket_bounds(actions: NDArray[np.int64], num_buckets: int) -> NDArray[np.int64]:
    """Bounds of item ranges with about equal actions, so that popular items make no straggler.

    Returns:
        num_buckets + 1 ascending item indices, from 0 to V + 1; a bucket may be empty.
    """
    share = np.cumsum(actions) / max(int(actions.sum()), 1)
    inner = np.searchsorted(share, np.arange(1, num_buckets) / num_buckets) + 1
    return np.concatenate([[0], np.minimum(inner, len(actions)), [len(actions)]])


def count_pairs(
    histories: DataFrame, counting: Counting, pruning: Pruning, staging: Path
) -> dict[str, int]:
    """Counts, shuffles and merges pairs, writes the parts to `staging` and sums up the reports."""
    staging.mkdir()
    count = partial(pair_counts, counting=counting, bounds=pruning.bounds)
    write = partial(write_bucket, pruning=pruning, staging=staging)
    reports: pa.Table = (
        histories.select(*counting.columns)
        .mapInArrow(count, from_arrow_schema(COUNTS_SCHEMA))
        .repartitionById(len(pruning.bounds) - 1, "bucket")
        .mapInArrow(write, from_arrow_schema(REPORT_SCHEMA))
        .toArrow()
    )
    totals = {name: reports[name].to_pylist() for name in REPORT_SCHEMA.names}
    return {n: max(c) if n == "max_degree" else sum(c) for n, c in totals.items()}


if __name__ == "__main__":
    run(STAGE, main)
