import numpy as np
import pytest

from jobs.plans import choose_plan, item_blocks
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
