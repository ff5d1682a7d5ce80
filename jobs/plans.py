"""Plans: the two ways propagation runs on Spark, with one result.

broadcast: every worker maps the whole graph; each task carries its seeds to convergence by itself.
blocked:   no worker holds more than a block of items' rows; products meet through shuffles.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pyspark import SparkContext

from jobs.blocked import State, cut, multiply, propagate_blocked, sum_products
from jobs.diagnostics import Shape
from jobs.propagation import Trace, join_traces, recency_shares
from jobs.seed_parts import (
    Seeds,
    Work,
    item_seeds,
    read_users,
    write_item_block,
    write_items,
    write_user_block,
    write_users,
)
from jobs.shared_rows import Rows
from jobs.spark import run_tasks
from schemas.settings import SparkSettings

Plan = Literal["broadcast", "blocked"]


def choose_plan(what: str, num_bytes: int, settings: SparkSettings) -> tuple[Plan, str]:
    """The plan for a matrix of this size that all tasks need, and why."""
    size, limit = f"{what} of {num_bytes / 2**20:,.1f} MiB", settings.broadcast_limit_mb
    if settings.plan != "auto":
        return settings.plan, f"{size}; spark.plan asks for it"
    is_small = num_bytes <= limit * 2**20
    comparison = f"{size} {'≤' if is_small else '>'} spark.broadcast_limit_mb = {limit}"
    return "broadcast" if is_small else "blocked", comparison


def propagate_items(
    spark: SparkContext, plan: Plan, tasks: Sequence[Seeds], work: Work, limit_mb: int
) -> tuple[list[Shape], Trace, int]:
    """Propagates from all items and writes their parts; shapes, trace and shuffled bytes."""
    if plan == "broadcast":
        reports = run_tasks(spark, partial(write_items, work=work), tasks)
        return [s for s, _ in reports], join_traces([t for _, t in reports]), 0
    spark.setCheckpointDir(str(work.staging / "_checkpoints"))
    bounds = item_blocks(work.graph.open()[0], spark.defaultParallelism, limit_mb)
    seeds = spark.parallelize(tasks, len(tasks))
    states, trace, shuffled = propagate_blocked(
        seeds.map(partial(_start, work=work)), len(tasks), work.graph, bounds, work.settings
    )
    by_number = {task.number: task for task in tasks}
    write = partial(_write_state, by_number=by_number, work=work)
    return states.map(write).collect(), trace, shuffled


def mix_users(
    spark: SparkContext, plan: Plan, tasks: Sequence[Seeds], work: Work, limit_mb: int
) -> tuple[list[Shape], int]:
    """Mixes all users' rows and writes their parts; shapes and shuffled bytes."""
    if plan == "broadcast":
        return run_tasks(spark, partial(write_users, work=work), tasks), 0
    bounds = item_blocks(work.item_rows.open()[0], spark.defaultParallelism, limit_mb)
    seeds = spark.parallelize(tasks, len(tasks))
    products = multiply(
        seeds.flatMap(partial(_mass_of_users, work=work, bounds=bounds)), work.item_rows, bounds
    )
    by_number = {task.number: task for task in tasks}
    write = partial(_write_sums, by_number=by_number, work=work)
    reports = products.groupByKey(len(tasks), int).map(write).collect()
    return [shape for shape, _ in reports], sum(received for _, received in reports)


def item_blocks(ends: NDArray[np.int64], num_cores: int, limit_mb: int) -> NDArray[np.int64]:
    """Bounds of blocks of items with about equal entries, each within the limit per worker.

    Args:
        ends: Row ends of the matrix, V + 2 long with row 0.
        num_cores: At least two blocks for each.
        limit_mb: MiB that a block's columns and values may take, if no row is larger by itself.
    """
    num_entries, bytes_per_entry = int(ends[-1]), 12
    num_blocks = max(2 * num_cores, -(-num_entries * bytes_per_entry // (limit_mb * 2**20)))
    inner = np.searchsorted(ends, num_entries * np.arange(1, num_blocks) / num_blocks)
    return np.unique([0, *np.minimum(inner, len(ends) - 1), len(ends) - 1])


def _start(seeds: Seeds, work: Work) -> tuple[int, State]:
    return seeds.number, State.of_seeds(item_seeds(seeds, work)[1], work.settings)


def _write_state(numbered: tuple[int, State], by_number: dict[int, Seeds], work: Work) -> Shape:
    number, state = numbered
    return write_item_block(by_number[number], state.block, work)


def _mass_of_users(
    seeds: Seeds, work: Work, bounds: NDArray[np.int64]
) -> Iterator[tuple[int, tuple[int, Rows]]]:
    ends, items = read_users(seeds).histories
    mass = recency_shares(np.diff(ends), work.settings.user_recency)
    for block, piece in cut(ends, items, mass, bounds):
        yield block, (seeds.number, piece)


def _write_sums(
    numbered: tuple[int, Iterable[Rows]], by_number: dict[int, Seeds], work: Work
) -> tuple[Shape, int]:
    number, products = numbered
    seeds, top_k = by_number[number], work.settings.top_k
    block, received = sum_products(products, seeds.stop - seeds.start, top_k, work.num_items + 1)
    return write_user_block(seeds, block, work), received
