from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.seed_parts import read_item_rows, write_item_part, write_user_part
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.settings import SoftTargetsSettings

NOON = datetime(2017, 10, 31, 12, tzinfo=UTC)
KIND = SoftTargetsSettings(alpha=0.5, user_recency=1.0)


@pytest.fixture
def write_items(publish_rows, tmp_path):
    """Writes the part of items 1 "b" and 2 "a", of which 1 leads to 2; returns report and files."""
    edge = {"item_index": 1, "neighbour_index": 2, "pair_weight": 1.0, "weight": 1.0}
    graph = tuple(publish_rows(ITEM_GRAPH, [edge]).files)
    seen = {"support": 1, "first_seen": NOON, "last_seen": NOON}
    rows = [seen | {"item_index": 1, "item_id": "b"}, seen | {"item_index": 2, "item_id": "a"}]
    items = tuple(publish_rows(ITEMS, rows).files)
    seeds = pa.RecordBatch.from_pydict({"item_id": ["a", "b"], "item_index": [2, 1]})

    def write_items():
        (report,) = write_item_part([seeds], graph, 2, KIND, tmp_path)
        return report.to_pylist()[0], items

    return write_items


def test_an_item_part_holds_the_rows_of_its_seeds(write_items, tmp_path):
    report, _ = write_items()
    rows = pq.read_table(tmp_path / "part-item-00000.parquet").to_pylist()
    assert [(r["seed_id"], r["item_indices"], r["masses"]) for r in rows] == [
        ("a", [2], [1.0]),
        ("b", [1, 2], [0.5, 0.5]),
    ]
    assert (report["rows"], report["num_unconverged"], report["active"][0]) == (2, 0, 2)


def test_staged_item_rows_are_read_back_by_item_index(write_items, tmp_path):
    _, items = write_items()
    assert read_item_rows(tmp_path, items).toarray().tolist() == [
        [0, 0, 0],
        [0, 0.5, 0.5],
        [0, 0, 1],
    ]


def test_a_user_part_holds_the_mix_of_item_rows(write_items, tmp_path):
    _, items = write_items()
    users = pa.RecordBatch.from_pydict(
        {"user_id": ["u"], "item_indices": pa.array([[1, 2]], pa.list_(pa.int32()))}
    )
    (report,) = write_user_part([users], items, KIND, tmp_path)
    (row,) = pq.read_table(tmp_path / "part-user-00000.parquet").to_pylist()
    assert (row["kind"], row["item_indices"], row["masses"]) == ("user", [1, 2], [0.25, 0.75])
    assert report.to_pylist()[0]["residual"] == []


def test_a_task_without_seeds_writes_and_reports_nothing(tmp_path):
    assert list(write_item_part([], (), 2, KIND, tmp_path)) == []
    assert list(write_user_part([], (), KIND, tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
