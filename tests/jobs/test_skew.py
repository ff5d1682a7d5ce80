from datetime import UTC, datetime, time

import numpy as np
import pyarrow as pa
import pytest

from jobs import item_graph, sequences
from schemas.errors import DataError
from schemas.interactions import INTERACTIONS
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import get, partition_path
from schemas.publishing import draft, new_token, publish
from schemas.sequences import SEQUENCES
from schemas.settings import Settings

NUM_NORMAL_USERS, NUM_ITEMS, MAX_HISTORY, WINDOW = 200, 1000, 1000, 10
BOT_EVENTS = 1_000_000
EVERYWHERE = "i0000"
"""The item in every basket: every fifth action of everyone."""


@pytest.fixture
def skewed_lengths():
    """Actions per user: around 20, one user with 100 times the median, one bot."""
    normal = np.random.default_rng(7).integers(15, 26, NUM_NORMAL_USERS).tolist()
    return [*normal, 100 * int(np.median(normal)), BOT_EVENTS]


@pytest.fixture
def publish_actions(tmp_path, make_night):
    """Publishes one day of interactions: these many per user, evenly over the day."""

    def publish_actions(lengths):
        midnight = datetime.combine(make_night().ds, time(), UTC)
        start, day = int(midnight.timestamp()) * 1_000_000, 86_400_000_000
        position = np.concatenate([np.arange(length) for length in lengths])
        owner = np.repeat(np.arange(len(lengths)), lengths)
        items = np.random.default_rng(8).integers(1, NUM_ITEMS, len(position))
        items[position % 5 == 0] = 0
        times = start + position * day // np.repeat(lengths, lengths)
        ids = {
            "user_id": (owner, [f"u{n:04d}" for n in range(len(lengths))]),
            "item_id": (items, [f"i{n:04d}" for n in range(NUM_ITEMS)]),
        }
        table = pa.table(
            {name: pa.array(values).take(pa.array(index)) for name, (index, values) in ids.items()}
            | {
                "event_time": pa.array(times, INTERACTIONS.schema.field("event_time").type),
                "event_type": pa.repeat("", len(times)),
                "weight": pa.repeat(1.0, len(times)),
            }
        )
        run = draft(tmp_path, INTERACTIONS, make_night().ds, new_token())
        run.write(table.cast(INTERACTIONS.schema))
        return publish(run, make_night().ds)

    return publish_actions


@pytest.fixture
def catalogue(publish_rows):
    noon = datetime(2017, 10, 31, 12, tzinfo=UTC)
    row = {"support": 1, "first_seen": noon, "last_seen": noon}
    rows = [row | {"item_index": n + 1, "item_id": f"i{n:04d}"} for n in range(NUM_ITEMS)]
    return publish_rows(ITEMS, rows)


def chosen(pair_budget):
    return Settings.model_validate(
        {
            "split": {"protocol": "leave_one_out"},
            "sequences": {"max_history": MAX_HISTORY},
            "item_graph": {"window": WINDOW, "pair_budget": pair_budget},
        }
    )


def pairs_within_the_window(length):
    return sum(min(WINDOW, length - 1 - position) for position in range(length))


def test_op19_a_bot_a_heavy_user_and_an_item_in_every_basket_finish_within_the_budget_and_are_told(
    spark, skewed_lengths, publish_actions, catalogue, make_night, tmp_path
):
    num_actions = publish_actions(skewed_lengths).manifest.rows
    budget = len(skewed_lengths) * MAX_HISTORY * WINDOW
    night = make_night(chosen(budget))

    sequences.main(night)
    histories = get(tmp_path, SEQUENCES, night.ds)
    kept = histories.manifest.notes
    # Everyone's last two actions validate and are held out.
    lengths = [min(length - 2, MAX_HISTORY) for length in skewed_lengths]
    assert num_actions == sum(skewed_lengths)
    assert (kept["users"], kept["dropped_users"]) == (NUM_NORMAL_USERS + 2, 0)
    assert kept["users_at_max_history"] == 2
    assert (kept["most_active_user"], kept["most_actions_of_a_user"]) == ("u0201", BOT_EVENTS)
    assert kept["dropped_positions"] == num_actions - sum(lengths) - 2 * len(lengths)

    num_pairs = sum(map(pairs_within_the_window, lengths))
    message = rf"expected at most item_graph\.pair_budget = {num_pairs - 1:,}; "
    with pytest.raises(DataError, match=message):
        item_graph.main(make_night(chosen(num_pairs - 1)))
    assert not partition_path(tmp_path, ITEM_GRAPH, night.ds).exists()

    item_graph.main(night)
    graph = get(tmp_path, ITEM_GRAPH, night.ds).manifest.notes
    actions = [
        item
        for row in histories.read().to_pylist()
        for item in row["item_indices"][: row["num_train"]]
    ]
    assert graph["position_pairs"] == num_pairs <= budget
    assert (graph["longest_history"], graph["median_history"]) == (
        MAX_HISTORY,
        int(np.median(lengths)),
    )
    assert graph["most_frequent_item"] == EVERYWHERE
    assert graph["most_actions_of_an_item"] == actions.count(1) > len(actions) / 6
