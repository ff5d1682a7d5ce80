from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest

from jobs.catalogue import check_catalogue
from schemas.errors import DataError
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import refuse_other_source
from schemas.sequences import SEQUENCES

NOON = datetime(2017, 10, 31, 12, tzinfo=UTC)


def test_an_index_beyond_the_catalogue_names_table_and_stage(publish_rows):
    edge = {"item_index": 1, "neighbour_index": 9, "pair_weight": 1.0, "weight": 1.0}
    graph = publish_rows(ITEM_GRAPH, [edge])
    check_catalogue(graph, ("item_index", "neighbour_index"), 9)
    with pytest.raises(DataError, match=r"item_index 9 in item_graph .* re-run .*jobs\.item_graph"):
        check_catalogue(graph, ("item_index", "neighbour_index"), 8)


def test_indices_inside_lists_are_checked_too(publish_rows):
    row = {"user_id": "u", "item_indices": [1, 7, 2], "event_times": [NOON] * 3}
    sequences = publish_rows(
        SEQUENCES, [row | {"num_train": 3, "num_validation": 0, "num_holdout": 0}]
    )
    with pytest.raises(DataError, match="item_index 7 in sequences"):
        check_catalogue(sequences, ("item_indices",), 6)


def item(index, item_id):
    seen = {"first_seen": NOON, "last_seen": NOON}
    return {"item_index": index, "item_id": item_id, "support": 9} | seen


def made_from(partition, *sources):
    """As if a stage had published it from these."""
    inputs = [asdict(source.as_input()) for source in sources]
    return replace(partition, manifest=replace(partition.manifest, inputs=inputs))


def test_a_table_made_from_items_that_were_replaced_since_is_refused(publish_rows):
    items = publish_rows(ITEMS, [item(1, "a"), item(2, "b")])
    edge = {"item_index": 1, "neighbour_index": 2, "pair_weight": 1.0, "weight": 1.0}
    graph = made_from(publish_rows(ITEM_GRAPH, [edge]), items)
    refuse_other_source(graph, items)
    # Published again with the same rows, it is the same catalogue.
    refuse_other_source(graph, publish_rows(ITEMS, [item(1, "a"), item(2, "b")]))
    replaced = publish_rows(ITEMS, [item(1, "x"), item(2, "a"), item(3, "b")])
    with pytest.raises(DataError, match=r"2017-10-31 made from items .* -m jobs\.item_graph"):
        refuse_other_source(graph, replaced)


def test_a_table_without_lineage_is_left_to_its_indices(publish_rows):
    items = publish_rows(ITEMS, [item(1, "a")])
    row = {"user_id": "u", "item_indices": [1], "event_times": [NOON]}
    lengths = {"num_train": 1, "num_validation": 0, "num_holdout": 0}
    refuse_other_source(publish_rows(SEQUENCES, [row | lengths]), items)
