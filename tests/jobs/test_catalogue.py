from datetime import UTC, datetime

import pytest

from jobs.catalogue import check_catalogue
from schemas.errors import DataError
from schemas.item_graph import ITEM_GRAPH
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
