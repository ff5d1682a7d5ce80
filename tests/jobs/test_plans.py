from functools import partial

import numpy as np
import pytest

from jobs.plans import choose_plan, item_blocks, seeds_at_once, seeds_of_a_task, waves
from jobs.seed_parts import Seeds
from jobs.shared_rows import SharedRows
from schemas.settings import SparkSettings


@pytest.mark.parametrize(
    ("num_bytes", "changes", "plan", "reason"),
    [
        (2**20, {}, "broadcast", "graph of 1.0 MiB ≤ spark.broadcast_limit_mb = 1"),
        (2**21, {}, "blocked", "graph of 2.0 MiB > spark.broadcast_limit_mb = 1"),
        (2**20, {"plan": "blocked"}, "blocked", "graph of 1.0 MiB; spark.plan asks for it"),
        (2**21, {"plan": "broadcast"}, "broadcast", "graph of 2.0 MiB; spark.plan asks for it"),
    ],
)
def test_the_plan_follows_from_the_measured_size_unless_it_is_forced(
    num_bytes, changes, plan, reason
):
    settings = SparkSettings(broadcast_limit_mb=1, **changes)
    assert choose_plan("graph", num_bytes, settings) == (plan, reason)


def test_blocks_cover_all_items_and_hold_about_equal_entries():
    ends = np.array([0, 0, 10, 11, 12, 13, 20])
    assert item_blocks(ends, 1, 1).tolist() == [0, 2, 6]


def test_no_block_is_larger_than_the_limit():
    entries_per_row, num_rows = 1_000, 500
    ends = entries_per_row * np.arange(num_rows + 1)
    bounds = item_blocks(ends, 1, 1)
    assert (bounds[0], bounds[-1]) == (0, num_rows)
    assert np.diff(ends[bounds]).max() * 12 <= 2**20 + 12 * entries_per_row


def test_a_matrix_without_entries_is_one_block():
    assert item_blocks(np.zeros(4, int), 2, 1).tolist() == [0, 3]


def test_seeds_at_once_have_products_within_the_limit():
    ends = np.array([0, 0, 10, 14])  # no product has more than three columns
    assert seeds_at_once(ends, num_entries=2, num_blocks=4, limit_mb=9) == 4 * 9 * 2**20 // (
        3 * 12 * 3
    )
    assert seeds_at_once(np.zeros(4, int), num_entries=2, num_blocks=1, limit_mb=36) == 2**20


def test_a_task_of_the_blocked_plan_has_no_more_seeds_than_one_worker_can_sum(tmp_path):
    """Of each seed, products of at most three columns, three copies of 12 bytes."""
    matrix = SharedRows(tmp_path, "graph")
    columns, values = np.ones(14, np.int32), np.ones(14)
    matrix.append(iter([(np.array([0, 0, 10, 14]), columns, values)]))
    of_task = partial(seeds_of_a_task, matrix=matrix, num_entries=2, most_seeds=9_000_000)
    assert of_task("broadcast", limit_mb=9) == 9_000_000
    assert of_task("blocked", limit_mb=9) == 9 * 2**20 // (3 * 12 * 3)
    assert of_task("blocked", limit_mb=9_000) == 9_000_000


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [[0], [1], [2]]), (6, [[0, 1], [2]]), (99, [[0, 1, 2]])]
)
def test_waves_have_all_tasks_in_order(most, expected):
    tasks = [Seeds(0, 0, 3), Seeds(1, 3, 6), Seeds(2, 6, 10)]
    assert [[task.number for task in wave] for wave in waves(tasks, most)] == expected
