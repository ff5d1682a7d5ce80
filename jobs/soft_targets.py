"""Soft targets: one row per seed and the label distribution that reached items from it.

Reads:    item_graph, items, sequences (training positions; validation for diagnostics only)
Writes:   soft_targets
If late:  training waits; yesterday's champion keeps serving.

One task lays the published graph out for all workers of a machine to map. Tasks then take items in
the order of their ids, propagate and write their part of the table; users' rows are mixed from
the items' rows in the same way. Where the graph is too large for that, `jobs/plans.py` has a
second plan with the same result.
"""

from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from jobs.catalogue import check_catalogue
from jobs.diagnostics import Shape, summary
from jobs.plans import choose_plan, mix_users, propagate_items, seeds_of_a_task
from jobs.propagation import Trace
from jobs.seed_parts import (
    Seeds,
    Work,
    count_hits,
    mean_history,
    share_graph,
    share_item_rows,
)
from jobs.spark import adopt, context, prestart_workers, run_tasks, shuffled_bytes
from jobs.stopwatch import Stopwatch
from schemas.command import Night, Stage, run
from schemas.errors import DataError
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import Input, Partition, get, refuse_other_source
from schemas.sequences import SEQUENCES
from schemas.settings import Settings, SoftTargetsSettings
from schemas.soft_targets import SOFT_TARGETS

ENTRIES_PER_TASK = 2**23
"""Entries of rows that one task makes room for at most; each takes 12 bytes, for a while 36."""

SEEDS_PER_TASK = 8_192
"""Seeds whose rows one task holds at most."""

TASKS_PER_CORE = 4
"""Tasks per core at least, so that cores finish at about the same time."""


def inputs(root: Path, ds: date, settings: Settings) -> Sequence[Input]:
    """Graph, items and sequences of the night."""
    return [get(root, contract, ds).as_input() for contract in (ITEM_GRAPH, ITEMS, SEQUENCES)]


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
    prestart_workers(night.settings.spark)
    graph, items, sequences = (
        get(night.root, contract, night.ds) for contract in (ITEM_GRAPH, ITEMS, SEQUENCES)
    )
    num_items, limit_mb = items.manifest.rows, night.settings.spark.broadcast_limit_mb
    refuse_other_source(sequences, items)
    refuse_other_source(graph, items, sequences)
    check_catalogue(graph, ("item_index", "neighbour_index"), num_items)
    check_catalogue(sequences, ("item_indices",), num_items)
    clock.lap("verify")
    spark = context("soft_targets", night.settings.spark)
    cores, shuffled_before = spark.defaultParallelism, shuffled_bytes(spark)
    clock.lap("start_spark")
    draft = night.draft(SOFT_TARGETS)
    staging = draft.path / "_staging"
    staging.mkdir()
    # No row has more entries than there are items.
    settings = settings.model_copy(update={"top_k": min(settings.top_k, num_items)})
    work = Work(settings, staging, tuple(graph.files), tuple(items.files), num_items)
    most_seeds = max(1, min(SEEDS_PER_TASK, ENTRIES_PER_TASK // settings.top_k))
    (graph_bytes,) = run_tasks(spark, share_graph, [work])
    plan, reason = choose_plan("graph", graph_bytes, night.settings.spark)
    print(f"soft_targets: {plan} plan: {reason}", flush=True)
    clock.lap("share_graph")
    of_task = seeds_of_a_task(plan, work.graph, settings.top_k, most_seeds, limit_mb)
    shapes, trace = propagate_items(
        spark, plan, seed_ranges(num_items, cores, of_task), work, limit_mb
    )
    log(trace, num_items)
    check_converged(trace, settings)
    clock.lap("items")
    run_tasks(spark, share_item_rows, [work])
    user_shapes: list[Shape] = []
    users = user_ranges(sequences, cores, most_seeds)
    if settings.user_seeds:
        num_bytes = work.item_rows.num_bytes()
        user_plan, why = choose_plan("items' rows", num_bytes, night.settings.spark)
        print(f"soft_targets: {user_plan} plan for users: {why}", flush=True)
        history = mean_history(sequences)
        of_task = seeds_of_a_task(user_plan, work.item_rows, history, most_seeds, limit_mb)
        users = user_ranges(sequences, cores, of_task)
        user_shapes = mix_users(spark, user_plan, users, work, limit_mb, sequences)
        draft.notes |= {"user_plan": user_plan, "user_plan_reason": why}
    clock.lap("users")
    counts = run_tasks(spark, partial(count_hits, work=work), users)
    draft.notes |= {"plan": plan, "plan_reason": reason}
    draft.notes["shuffled_bytes"] = shuffled_bytes(spark) - shuffled_before
    draft.notes["item"] = summary(shapes, [by_item for by_item, _ in counts], num_items)
    if settings.user_seeds:
        draft.notes["user"] = summary(user_shapes, [by_user for _, by_user in counts], num_items)
    draft.notes["iterations"] = iterations(trace, num_items)
    adopt(draft, staging)
    clock.lap("diagnostics")
    draft.notes["seconds"] = clock.seconds
    night.publish(draft)


def seed_ranges(num_seeds: int, num_cores: int, most_seeds: int) -> list[Seeds]:
    """Ranges of items in the order of their ids, for one task each, of `most_seeds` at most."""
    num_tasks = max(1, min(num_seeds, TASKS_PER_CORE * num_cores), -(-num_seeds // most_seeds))
    bounds = [num_seeds * number // num_tasks for number in range(num_tasks + 1)]
    return [Seeds(n, bounds[n], bounds[n + 1]) for n in range(num_tasks)]


def user_ranges(sequences: Partition, num_cores: int, most_seeds: int) -> list[Seeds]:
    """Ranges of users in key order, for one task each, none beyond a row group."""
    rows_per_task = -(-sequences.manifest.rows // (TASKS_PER_CORE * num_cores))
    rows_per_task = min(most_seeds, max(1, rows_per_task))
    ranges: list[Seeds] = []
    for file in sequences.files:
        footer = pq.read_metadata(file)
        for group in range(footer.num_row_groups):
            num_rows = footer.row_group(group).num_rows
            for start in range(0, num_rows, rows_per_task):
                stop = min(start + rows_per_task, num_rows)
                ranges.append(Seeds(len(ranges), start, stop, file, group))
    return ranges


def check_converged(trace: Trace, settings: SoftTargetsSettings) -> None:
    """Checks that every row changed by less than the tolerance in its last iteration.

    Raises:
        DataError: With the residual and the settings that decide, unless `allow_unconverged`.
    """
    if trace.num_unconverged and not settings.allow_unconverged:
        raise DataError(
            f"{trace.num_unconverged:,} seeds with an L1 change of up to "
            f"{trace.residual[-1]:.3g} in iteration {len(trace.residual)}",
            f"less than soft_targets.tolerance = {settings.tolerance:g} within "
            f"soft_targets.max_iterations = {settings.max_iterations}",
            f"raise max_iterations or tolerance, lower soft_targets.alpha = {settings.alpha:g}, "
            "or set soft_targets.allow_unconverged",
        )


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
