"""Catalogue: whether a table's item indices exist, read from Parquet footers before any work.

For tables whose lineage does not say which items they were made from; where it does,
`refuse_other_source` has compared them.
"""

from collections.abc import Iterator

import pyarrow.parquet as pq

from schemas.errors import DataError
from schemas.partitions import Partition


def check_catalogue(partition: Partition, columns: tuple[str, ...], num_items: int) -> None:
    """Checks that indices are at most `num_items`, by the files' column statistics.

    Raises:
        DataError: The table was made from another catalogue.
    """
    largest = max((n for name in columns for n in _maxima(partition, name)), default=0)
    if largest > num_items:
        m = partition.manifest
        raise DataError(
            f"item_index {largest} in {m.table} of {m.ds}",
            f"at most {num_items}, the items published for this date",
            f"re-run python -m {m.stage} --ds {m.ds} with the current items",
        )


def _maxima(partition: Partition, column: str) -> Iterator[int]:
    for file in partition.files:
        footer = pq.read_metadata(file)
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for chunk in map(group.column, range(group.num_columns)):
                statistics = chunk.statistics
                is_column = chunk.path_in_schema.split(".")[0] == column
                if is_column and statistics is not None and statistics.has_min_max:
                    yield statistics.max
