"""Plans: the two ways propagation runs on Spark, with one result.

broadcast: every worker maps the whole graph; each task carries its seeds to convergence by itself.
blocked:   no worker holds more than a block of items' rows; products meet through shuffles, in
           waves of seeds, since a seed's products are far more than what is kept of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pyspark import SparkContext

from jobs.blocked import State, cut, forget, multiply, propagate_blocked, sum_products
from jobs.diagnostics import Shape
from jobs.propagation import Trace, join_traces, recency_shares
from jobs.seed_parts import (
    Seeds,
    Work,
    item_seeds,
    mean_history,
    read_users,
    write_item_block,
    write_items,
    write_user_block,
    write_users,
)
from jobs.shared_rows import Rows, SharedRows
from jobs.spark import run_tasks
from schemas.partitions import Partition
from schemas.settings import SparkSettings

Plan = Literal["broadcast", "blocked"]

BYTES_PER_ENTRY = 12
"""Of a sparse row: a column and a value."""

COPIES = 3
"""Of a block's products: as they were made, gathered for the shuffle, and on their way to it."""


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
) -> tuple[list[Shape], Trace]:
    """Propagates from all items and writes their parts; shapes and trace."""
    if plan == "broadcast":
        reports = run_tasks(spark, partial(write_items, work=work), tasks)
        return [s for s, _ in reports], join_traces([t for _, t in reports])
    spark.setCheckpointDir(str(work.staging / "_checkpoints"))
    ends = work.graph.open()[0]
    bounds = item_blocks(ends, spark.defaultParallelism, limit_mb)
    most = seeds_at_once(ends, work.settings.top_k, len(bounds) - 1, limit_mb)
    shapes, traces = list[Shape](), list[Trace]()
    for wave in waves(tasks, most):
        states, trace = propagate_blocked(
            spark.parallelize(wave, len(wave)).map(partial(_start, work=work)),
            len(wave),
            work.graph,
            bounds,
            work.settings,
        )
        by_number = {task.number: task for task in wave}
        shapes += states.map(partial(_write_state, by_number=by_number, work=work)).collect()
        forget(states)
        traces.append(trace)
    return shapes, join_traces(traces)


def mix_users(
    spark: SparkContext,
    plan: Plan,
    tasks: Sequence[Seeds],
    work: Work,
    limit_mb: int,
    sequences: Partition,
) -> list[Shape]:
    """Mixes all users' rows and writes their parts; their shapes."""
    if plan == "broadcast":
        return run_tasks(spark, partial(write_users, work=work), tasks)
    ends = work.item_rows.open()[0]
    bounds = item_blocks(ends, spark.defaultParallelism, limit_mb)
    most = seeds_at_once(ends, mean_history(sequences), len(bounds) - 1, limit_mb)
    shapes = list[Shape]()
    for wave in waves(tasks, most):
        mass = spark.parallelize(wave, len(wave)).flatMap(
            partial(_mass_of_users, work=work, bounds=bounds)
        )
        products = multiply(mass, work.item_rows, bounds).groupByKey(len(wave), int)
        by_number = {task.number: task for task in wave}
        write = partial(_write_sums, by_number=by_number, work=work)
        shapes += products.map(write).collect()
    return shapes


def seeds_of_a_task(
    plan: Plan, matrix: SharedRows, num_entries: float, most_seeds: int, limit_mb: int
) -> int:
    """Seeds of one task at most: in the blocked plan, one worker sums up all their products.

    Args:
        plan: How the matrix meets the seeds.
        matrix: S, or the rows of items.
        num_entries: Items that a row of mass stands on.
        most_seeds: Of a task whatever the plan.
        limit_mb: MiB per worker.
    """
    if plan == "broadcast":
        return most_seeds
    return max(1, min(most_seeds, seeds_at_once(matrix.open()[0], num_entries, 1, limit_mb)))


def seeds_at_once(
    ends: NDArray[np.int64], num_entries: float, num_blocks: int, limit_mb: int
) -> int:
    """Seeds whose products with one block of items keep within the limit, were blocks alike.

    Args:
        ends: Row ends of the matrix, V + 2 long with row 0.
        num_entries: Items that a row of mass stands on, each taken to have the longest row.
        num_blocks: Of items.
        limit_mb: MiB per worker.
    """
    longest = int(np.diff(ends).max())
    num_bytes = COPIES * BYTES_PER_ENTRY * max(1.0, min(len(ends) - 1, num_entries * longest))
    return int(num_blocks * limit_mb * 2**20 / num_bytes)


def waves(tasks: Sequence[Seeds], most_seeds: int) -> Iterator[list[Seeds]]:
    """All tasks in order, as many at once as have no more seeds, and one at least."""
    wave, num_seeds = list[Seeds](), 0
    for task in tasks:
        if wave and num_seeds + task.stop - task.start > most_seeds:
            yield wave
            wave, num_seeds = [], 0
        wave.append(task)
        num_seeds += task.stop - task.start
    yield wave


def item_blocks(ends: NDArray[np.int64], num_cores: int, limit_mb: int) -> NDArray[np.int64]:
    """Bounds of blocks of items with about equal entries, each within the limit per worker.

    Args:
        ends: Row ends of the matrix, V + 2 long with row 0.
        num_cores: At least two blocks for each.
        limit_mb: MiB that a block's columns and values may take, if no row is larger by itself.
    """
    num_entries = int(ends[-1])
    num_blocks = max(2 * num_cores, -(-num_entries * BYTES_PER_ENTRY // (limit_mb * 2**20)))
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
) -> Shape:
    number, products = numbered
    seeds, top_k = by_number[number], work.settings.top_k
    block = sum_products(products, seeds.stop - seeds.start, top_k, work.num_items + 1)
    return write_user_block(seeds, block, work)
