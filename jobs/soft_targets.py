"""Soft targets: one row per seed and the label distribution that reached items from it.

Reads:    item_graph, items, sequences (training positions only)
Writes:   soft_targets
If late:  training waits; yesterday's champion keeps serving.

Tasks take seeds in the order of their ids. Each worker reads the published graph itself, once,
propagates its block of items and writes its part of the table; then users' rows are mixed from
the items' rows in the same way. Only the traces of the iterations meet the driver.
"""

from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from jobs.catalogue import check_catalogue
from jobs.propagation import Trace, join_traces
from jobs.seed_parts import TRACE_SCHEMA, write_item_part, write_user_part
from jobs.spark import adopt, read, session
from jobs.stopwatch import Stopwatch
from schemas.command import Night, Stage, run
from schemas.errors import DataError
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import Input, Partition, get
from schemas.sequences import SEQUENCES
from schemas.settings import Settings, SoftTargetsSettings
from schemas.soft_targets import SOFT_TARGETS

SEEDS_PER_TASK = 16_384
"""Seeds whose rows one task holds at most, about, before it writes them."""


def inputs(root: Path, ds: date, settings: Settings) -> Sequence[Input]:
    """Graph and items of the night, and sequences where users are seeds."""
    contracts = [ITEM_GRAPH, ITEMS, *[SEQUENCES] * settings.soft_targets.user_seeds]
    return [get(root, contract, ds).as_input() for contract in contracts]


STAGE = Stage(
    module="jobs.soft_targets",
    doc=__doc__,
    writes=(SOFT_TARGETS,),
    inputs=inputs,
    settings=("soft_targets",),
)


def main(night: Night) -> None:
    """Propagates from all seeds of one night and publishes where it arrived."""
    clock, settings = Stopwatch(), night.settings.soft_targets
    graph, items = get(night.root, ITEM_GRAPH, night.ds), get(night.root, ITEMS, night.ds)
    check_catalogue(graph, ("item_index", "neighbour_index"), items.manifest.rows)
    spark = session("soft_targets", night.settings.spark)
    clock.lap("start_spark")
    draft = night.draft(SOFT_TARGETS)
    staging = draft.path / "_staging"
    staging.mkdir()
    reports = write_items(spark, items, graph, settings, staging)
    trace = join_traces([Trace.from_row(report) for report in reports])
    log(trace, items.manifest.rows)
    check_converged(trace, settings)
    draft.notes |= {"item": totals(reports), "iterations": iterations(trace, items.manifest.rows)}
    clock.lap("items")
    if settings.user_seeds:
        sequences = get(night.root, SEQUENCES, night.ds)
        check_catalogue(sequences, ("item_indices",), items.manifest.rows)
        draft.notes["user"] = totals(write_users(spark, sequences, items, settings, staging))
        clock.lap("users")
    adopt(draft, staging)
    draft.notes["seconds"] = clock.seconds
    night.publish(draft)


def write_items(
    spark: SparkSession,
    items: Partition,
    graph: Partition,
    settings: SoftTargetsSettings,
    staging: Path,
) -> list[dict[str, Any]]:
    """Propagates from all items; tasks write the parts and report."""
    write = partial(
        write_item_part,
        settings=settings,
        staging=staging,
        graph_files=tuple(graph.files),
        num_items=items.manifest.rows,
    )
    seeds = read(spark, [items]).select("item_id", "item_index")
    return run_tasks(in_order(seeds, items.manifest.rows), write)


def write_users(
    spark: SparkSession,
    sequences: Partition,
    items: Partition,
    settings: SoftTargetsSettings,
    staging: Path,
) -> list[dict[str, Any]]:
    """Mixes all users' rows from the items' staged rows; tasks write the parts and report."""
    write = partial(
        write_user_part, settings=settings, staging=staging, items_files=tuple(items.files)
    )
    training = F.slice("item_indices", 1, F.col("num_train")).alias("item_indices")
    histories = read(spark, [sequences]).select("user_id", training)
    return run_tasks(in_order(histories, sequences.manifest.rows), write)


def in_order(seeds: DataFrame, num_seeds: int) -> DataFrame:
    """Seeds in the order of their ids (the first column), over two tasks per core at least."""
    cores = seeds.sparkSession.sparkContext.defaultParallelism
    num_tasks = max(2 * cores, -(-num_seeds // SEEDS_PER_TASK))
    seed_id = seeds.columns[0]
    return seeds.repartitionByRange(num_tasks, seed_id).sortWithinPartitions(seed_id)


def run_tasks(seeds: DataFrame, write: Any) -> list[dict[str, Any]]:
    """Runs one task per partition of the seeds; returns their reports (`TRACE_SCHEMA`)."""
    reports: pa.Table = seeds.mapInArrow(write, from_arrow_schema(TRACE_SCHEMA)).toArrow()
    return reports.to_pylist()


def check_converged(trace: Trace, settings: SoftTargetsSettings) -> None:
    """Checks that every row changed by less than the tolerance in its last iteration.

    Raises:
        DataError: With the residual and the settings that decide.
    """
    if trace.num_unconverged:
        raise DataError(
            f"{trace.num_unconverged:,} seeds with an L1 change of up to "
            f"{trace.residual[-1]:.3g} in iteration {len(trace.residual)}",
            f"less than soft_targets.tolerance = {settings.tolerance:g} within "
            f"soft_targets.max_iterations = {settings.max_iterations}",
            f"raise max_iterations or tolerance, or lower soft_targets.alpha = {settings.alpha:g}",
        )


def totals(reports: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Rows of a kind of seed and the mass they dropped on average, for the manifest."""
    rows = sum(report["rows"] for report in reports)
    dropped = sum(report["dropped_mass"] for report in reports) / max(rows, 1)
    return {"rows": rows, "mean_dropped_mass": float(f"{dropped:.6g}")}


def iterations(trace: Trace, num_seeds: int) -> list[dict[str, float]]:
    """Per iteration the largest residual of a row, active and held rows, mean dropped mass."""
    mean_dropped = np.maximum(trace.dropped, 0) / num_seeds
    names = ("residual", "active", "held", "mean_dropped_mass")
    columns = (trace.residual, trace.active, trace.held, mean_dropped)
    lines = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, line, strict=True)) for line in lines]


def log(trace: Trace, num_seeds: int) -> None:
    """Prints one line per iteration."""
    for number, line in enumerate(iterations(trace, num_seeds), start=1):
        print(
            f"soft_targets: iteration {number}: residual {line['residual']:.3e}, "
            f"{line['active']:,} active rows ({line['held']:,} held), "
            f"mean dropped mass {line['mean_dropped_mass']:.3e}",
            flush=True,
        )


if __name__ == "__main__":
    run(STAGE, main)
