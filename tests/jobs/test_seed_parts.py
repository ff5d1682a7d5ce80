from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.seed_parts import (
    Seeds,
    Work,
    count_hits,
    read_users,
    share_graph,
    share_item_rows,
    write_items,
    write_users,
)
from schemas.errors import DataError
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.sequences import SEQUENCES
from schemas.settings import SoftTargetsSettings

NOON = datetime(2017, 10, 31, 12, tzinfo=UTC)
KIND = SoftTargetsSettings(alpha=0.5, user_recency=1.0)


def edge(item, neighbour):
    return {"item_index": item, "neighbour_index": neighbour, "pair_weight": 1.0, "weight": 1.0}


@pytest.fixture
def work(publish_rows, tmp_path):
    """Items 1 "b" and 2 "a", of which 1 leads to 2, with the graph shared."""
    seen = {"support": 1, "first_seen": NOON, "last_seen": NOON}
    rows = [seen | {"item_index": 1, "item_id": "b"}, seen | {"item_index": 2, "item_id": "a"}]
    items = tuple(publish_rows(ITEMS, rows).files)
    work = Work(KIND, tmp_path, tuple(publish_rows(ITEM_GRAPH, [edge(1, 2)]).files), items, 2)
    share_graph(work)
    return work


@pytest.fixture
def users(publish_rows):
    """Seeds of one user whose training items are 1 and 2, its validation item 2."""
    row = {"user_id": "u", "item_indices": [1, 2, 2, 1], "event_times": [NOON] * 4}
    splits = {"num_train": 2, "num_validation": 1, "num_holdout": 1}
    (file,) = publish_rows(SEQUENCES, [row | splits]).files
    return Seeds(0, 0, 1, file, 0)


def part(work, kind):
    rows = pq.read_table(work.staging / f"part-{kind}-00000.parquet").to_pylist()
    return [(r["seed_id"], r["item_indices"], r["masses"]) for r in rows]


def test_an_item_part_holds_the_rows_of_its_seeds_in_the_order_of_ids(work):
    shape, trace = write_items(Seeds(0, 0, 2), work)
    assert part(work, "item") == [("a", [2], [1.0]), ("b", [1, 2], [0.5, 0.5])]
    assert (shape.rows, trace.num_unconverged, trace.active[0]) == (2, 0, 2)


def test_item_rows_are_shared_by_item_index(work):
    write_items(Seeds(0, 0, 2), work)
    share_item_rows(work)
    ends, columns, masses = work.item_rows.open()
    assert ends.tolist() == [0, 0, 2, 3]
    assert columns.tolist() == [1, 2, 2]
    assert masses.tolist() == [0.5, 0.5, 1.0]


def test_a_user_part_holds_the_mix_of_item_rows(work, users):
    write_items(Seeds(0, 0, 2), work)
    share_item_rows(work)
    shape = write_users(users, work)
    assert part(work, "user") == [("u", [1, 2], [0.25, 0.75])]
    assert (shape.rows, shape.seed_mass) == (1, 1.0)
    by_item, by_user = count_hits(users, work)
    assert (by_item.tolist(), by_user.tolist()) == ([1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0])


def test_users_come_without_their_holdout(users):
    read = read_users(users)
    assert read.ids.to_pylist() == ["u"]
    assert [part.tolist() for part in read.histories] == [[0, 2], [1, 2]]
    assert [part.tolist() for part in read.validation] == [[0, 1], [2]]


def test_edges_of_one_item_in_two_files_are_an_error_that_names_it(work, tmp_path):
    files = [tmp_path / name for name in ("one.parquet", "two.parquet")]
    for file, neighbour in zip(files, (1, 2), strict=True):
        pq.write_table(pa.Table.from_pylist([edge(2, neighbour)], ITEM_GRAPH.schema), file)
    broken = Work(KIND, tmp_path, tuple(files), work.items_files, 2)
    with pytest.raises(DataError, match="edges of item 2 in two part files"):
        share_graph(broken)
