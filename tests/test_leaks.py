"""Leak test: nothing of validation or holdout may reach catalogue, graph or soft targets."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs import item_graph, items, sequences, soft_targets
from schemas.command import Night
from schemas.interactions import INTERACTIONS
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import get, window
from schemas.publishing import draft, new_token, publish
from schemas.settings import (
    EventsSettings,
    ItemsSettings,
    Settings,
    SoftTargetsSettings,
    SparkSettings,
    SplitSettings,
)
from schemas.soft_targets import SOFT_TARGETS

DS = date(2017, 10, 31)
NUM_DAYS = 20


def actions(seed: int) -> list[dict[str, object]]:
    """Forty users, twenty days, one action a day; times inside the day differ."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(40):
        taste = random.choice(30, size=8, replace=False)
        for day in range(NUM_DAYS):
            start = datetime(2017, 10, 12, tzinfo=UTC) + timedelta(days=day)
            rows.append(
                {
                    "user_id": f"u{user:02d}",
                    "item_id": f"i{random.choice(taste):02d}",
                    "event_time": start + timedelta(seconds=int(random.integers(86_400))),
                    "event_type": "",
                    "weight": 1.0,
                }
            )
    return rows


def digests(root: Path, rows: list[dict[str, object]], settings: Settings) -> dict[str, str]:
    """Content digests of what the Spark stages make of the actions."""
    by_day: dict[date, list[dict[str, object]]] = {}
    for row in rows:
        by_day.setdefault(row["event_time"].date(), []).append(row)
    for day, of_day in by_day.items():
        run = draft(root, INTERACTIONS, day, new_token())
        run.write(pa.Table.from_pylist(of_day, schema=INTERACTIONS.schema))
        publish(run, day)
    for stage in (items, sequences, item_graph, soft_targets):
        inputs = [p.as_input() for p in window(root, INTERACTIONS, DS, NUM_DAYS)]
        stage.main(Night(root, DS, settings, inputs, "", new_token(), 0.0))
    tables = (ITEMS, ITEM_GRAPH, SOFT_TARGETS)
    return {c.table: get(root, c, DS).manifest.content_digest for c in tables}


def make_settings(protocol: str) -> Settings:
    return Settings(
        events=EventsSettings(history_days=NUM_DAYS),
        split=SplitSettings(protocol=protocol, holdout_days=3, validation_days=3),
        items=ItemsSettings(min_support=2),
        soft_targets=SoftTargetsSettings(max_iterations=60),
        spark=SparkSettings(shuffle_partitions=2),
    )


def is_unseen_in_training(row: dict[str, object], rows: list[dict[str, object]], protocol: str):
    if protocol == "temporal":
        return row["event_time"].date() > DS - timedelta(days=6)
    later = [r for r in rows if r["user_id"] == row["user_id"]]
    return row in sorted(later, key=lambda r: r["event_time"])[-2:]


@pytest.mark.parametrize("protocol", ["temporal", "leave_one_out"])
def test_only_training_rows_reach_the_tables_upstream(spark, tmp_path, protocol):
    rows = actions(seed=1)
    unseen = [is_unseen_in_training(row, rows, protocol) for row in rows]
    changed = [row | {"item_id": f"new{n % 3}"} if unseen[n] else row for n, row in enumerate(rows)]
    assert sum(unseen) >= 80
    settings = make_settings(protocol)
    before = digests(tmp_path / "before", rows, settings)
    assert digests(tmp_path / "unseen", changed, settings) == before
    if protocol == "temporal":
        changed = [rows[0] | {"item_id": "i29"}, *rows[1:]]
        after = digests(tmp_path / "training", changed, settings)
        assert all(before[table] != after[table] for table in before)
