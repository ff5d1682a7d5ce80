"""Item graph: one row per weighted edge from an item to one of its strongest neighbours.

Reads:    sequences (training positions only), items
Writes:   item_graph
If late:  soft_targets waits; yesterday's champion keeps serving.

Two rounds of tasks: the first turns histories into one flat file of positions, row group by row
group, and sums up single items; in the second, every task maps that file, counts the pairs of its
range of items, normalises, prunes and writes its part of the table. No pair is shuffled, and
only sums over single items meet the driver.
"""

from collections.abc import Sequence
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark import SparkContext

from jobs.catalogue import check_catalogue
from jobs.edges import Pruning, write_bucket
from jobs.normalisers import ItemWeights
from jobs.pair_counts import counted_share, fraction_bits, num_position_pairs
from jobs.positions import FRACTION_BITS, Histories, Slice
from jobs.spark import adopt, context, prestart_workers, run_tasks, shuffled_bytes
from jobs.stopwatch import Stopwatch
from schemas.command import Night, Stage, run
from schemas.errors import DataError
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import Input, Partition, get, refuse_other_source
from schemas.sequences import SEQUENCES
from schemas.settings import ItemGraphSettings, Settings

BUCKETS_PER_CORE = 4
"""Ranges of items per core, so that cores finish at about the same time."""

POSITIONS_PER_BUCKET = 4_000_000
"""Training positions whose items one task counts at most, about; bounds its memory."""


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
    """Counts, normalises, prunes and publishes the graph of one night."""
    clock, settings = Stopwatch(), night.settings.item_graph
    prestart_workers(night.settings.spark)
    sequences = get(night.root, SEQUENCES, night.ds)
    items = get(night.root, ITEMS, night.ds)
    num_items = items.manifest.rows
    refuse_other_source(sequences, items)
    check_catalogue(sequences, ("item_indices",), num_items)
    slices, size, share = measure(sequences, settings)
    # Tasks make room for these: no history reaches further, and no row has more neighbours.
    reach = max(1, min(settings.window, size["longest_history"] - 1))
    most = min(settings.top_k, num_items)
    settings = settings.model_copy(update={"window": reach, "top_k": most})
    clock.lap("budget")
    spark = context("item_graph", night.settings.spark)
    shuffled_before = shuffled_bytes(spark)
    clock.lap("start_spark")
    draft = night.draft(ITEM_GRAPH)
    staging = draft.path / "_staging"
    staging.mkdir()
    histories = Histories(staging, num_items, settings, night.ds)
    actions, weights = write_positions(spark, histories, slices, size)
    weights = weights._replace(share=share)
    clock.lap("positions")
    pruning = Pruning(settings, weights, fraction_bits(size["position_pairs"]))
    report = write_edges(spark, histories, pruning, actions, staging)
    clock.lap("pairs")
    report["shuffled_bytes"] = shuffled_bytes(spark) - shuffled_before
    check_weights(report["pairs_of_items"], size, settings)
    check_edges(report, settings)
    adopt(draft, staging)
    report["items_without"] = num_items - report["items_with_edges"]
    busiest = {
        "most_actions_of_an_item": int(actions.max()),
        "most_frequent_item": items.read(["item_id"])["item_id"][int(actions.argmax()) - 1].as_py(),
    }
    draft.notes |= {**size, **report, **busiest, "seconds": clock.seconds}
    night.publish(draft)


def measure(
    sequences: Partition, settings: ItemGraphSettings
) -> tuple[list[Slice], dict[str, int], float]:
    """Slices of the histories, how much there is to count, and which share of all pairs that is.

    All of it follows from the histories' lengths alone.

    Raises:
        DataError: The exact number of position pairs of the training histories is over the
            budget; no pair was touched and Spark not started.
    """
    slices: list[Slice] = []
    lengths, offset = [], 1
    for file in sequences.files:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            column = parquet.read_row_group(group, ["num_train"])["num_train"]
            slices.append(Slice(len(slices), file, group, offset))
            # Not `to_numpy`, which imports pandas.
            lengths.append(np.from_dlpack(column.combine_chunks()).astype(np.int64))
            offset += int((lengths[-1] + 1).sum())
    every = np.concatenate(lengths)
    size = {
        "position_pairs": num_position_pairs(every, settings.window),
        "training_positions": int(every.sum()),
        "users": len(every),
        "longest_history": int(every.max()),
        "median_history": int(np.median(every)),
    }
    if size["position_pairs"] > settings.pair_budget:
        raise DataError(
            f"{size['position_pairs']:,} position pairs in sequences of {sequences.manifest.ds}, "
            f"whose longest training history has {size['longest_history']:,} actions",
            f"at most item_graph.pair_budget = {settings.pair_budget:,}",
            "lower sequences.max_history or "
            f"item_graph.window (now {settings.window}), or raise item_graph.pair_budget",
        )
    return slices, size, counted_share(every, settings)


def write_positions(
    spark: SparkContext, histories: Histories, slices: Sequence[Slice], size: dict[str, int]
) -> tuple[NDArray[np.int64], ItemWeights]:
    """Writes all positions; returns training actions and weights of every item, V + 1 long.

    They meet the driver because an edge needs the weights of both its ends: one number per item
    has to reach every task in any plan.
    """
    histories.create(size["training_positions"] + size["users"] + 1)
    run_tasks(spark, histories.write, slices)
    return item_weights(histories, len(slices), size["users"])


def item_weights(
    histories: Histories, num_slices: int, num_users: int
) -> tuple[NDArray[np.int64], ItemWeights]:
    """Training actions and weights of every item, V + 1 long, from the sums of all slices."""
    actions, own, own_fraction, frequency, frequency_fraction = histories.read_sums(num_slices)
    weights = ItemWeights(
        own=own + np.ldexp(own_fraction.astype(np.float64), -FRACTION_BITS),
        frequency=frequency + np.ldexp(frequency_fraction.astype(np.float64), -FRACTION_BITS),
        num_users=num_users,
    )
    return actions, weights


def check_weights(num_pairs: int, size: dict[str, int], settings: ItemGraphSettings) -> None:
    """Checks that time has left something of the pairs.

    Args:
        num_pairs: Of items, with a weight that does not round to 0.
        size: As `measure` returns it.
        settings: Time decay.

    Raises:
        DataError: There were pairs, and there are none.
    """
    if settings.time_decay_days and size["position_pairs"] and not num_pairs:
        raise DataError(
            f"no pair of items with a weight, at time_decay_days = {settings.time_decay_days:g}",
            "training actions on different items, not so much older at the end of ds",
            "raise item_graph.time_decay_days: what trains is older than split.holdout_days and "
            "split.validation_days together",
        )


def check_edges(report: dict[str, int], settings: ItemGraphSettings) -> None:
    """Checks that weighing has left something of the pairs.

    Args:
        report: `pairs_of_items` that were counted, and `edges` that were kept.
        settings: What weighs and prunes.

    Raises:
        DataError: There were pairs, and no edge is left.
    """
    if report["pairs_of_items"] and not report["edges"]:
        raise DataError(
            f"no edge from {report['pairs_of_items']:,} pairs of items",
            "at least one",
            f"lower item_graph.min_pair_weight (now {settings.min_pair_weight:g}), or take another "
            f"item_graph.normaliser than {settings.normaliser}",
        )


def write_edges(
    spark: SparkContext,
    histories: Histories,
    pruning: Pruning,
    actions: NDArray[np.int64],
    staging: Path,
) -> dict[str, int]:
    """Writes the parts of the table to `staging` and sums up what their tasks report."""
    num_buckets = max(
        BUCKETS_PER_CORE * spark.defaultParallelism,
        int(actions.sum()) // POSITIONS_PER_BUCKET,
    )
    bounds = bucket_bounds(actions, num_buckets)
    buckets = [
        (number, first, end)
        for number, (first, end) in enumerate(pairwise(bounds.tolist()))
        if first < end
    ]
    write = partial(write_edges_of, histories=histories, pruning=pruning, staging=staging)
    reports = run_tasks(spark, write, buckets)
    combine = {"max_degree": max}
    return {name: combine.get(name, sum)(r[name] for r in reports) for name in reports[0]}


def write_edges_of(bucket: tuple[int, int, int], **shared: Any) -> dict[str, int]:
    """One task: `jobs.edges.write_bucket` of (number, first item, end)."""
    return write_bucket(*bucket, **shared)


def bucket_bounds(actions: NDArray[np.int64], num_buckets: int) -> NDArray[np.int64]:
    """Bounds of item ranges with about equal actions, so that popular items make no straggler.

    Returns:
        num_buckets + 1 ascending item indices, from 1 to V + 1; a bucket may be empty.
    """
    share = np.cumsum(actions) / max(int(actions.sum()), 1)
    inner = np.searchsorted(share, np.arange(1, num_buckets) / num_buckets) + 1
    return np.concatenate([[1], np.minimum(inner, len(actions)), [len(actions)]])


if __name__ == "__main__":
    run(STAGE, main)
