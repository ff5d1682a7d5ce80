import pyarrow.parquet as pq

from jobs.parts import write_part
from schemas.item_graph import ITEM_GRAPH


def edge(item):
    return {"item_index": [item], "neighbour_index": [9], "pair_weight": [1.0], "weight": [1.0]}


def test_parts_sort_by_prefix_then_number(tmp_path):
    for prefix, number in (("user", 0), ("item", 10), ("item", 2)):
        write_part(tmp_path, prefix, number, ITEM_GRAPH, edge(1))
    names = [file.name for file in sorted(tmp_path.iterdir())]
    assert names == [
        "part-item-00002.parquet",
        "part-item-00010.parquet",
        "part-user-00000.parquet",
    ]


def test_a_repeated_task_replaces_its_part(tmp_path):
    write_part(tmp_path, "item", 0, ITEM_GRAPH, edge(1))
    write_part(tmp_path, "item", 0, ITEM_GRAPH, edge(2))
    (file,) = tmp_path.iterdir()
    assert pq.read_table(file)["item_index"].to_pylist() == [2]


def test_without_rows_there_is_no_part(tmp_path):
    write_part(tmp_path, "item", 0, ITEM_GRAPH, {name: [] for name in ITEM_GRAPH.columns})
    assert list(tmp_path.iterdir()) == []
