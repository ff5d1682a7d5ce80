"""Names: what people call items, in a Parquet file beside the tables (`report.names`)."""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import DataError, may_pass

SETTING = "report.names in the settings"


def names_of(file: Path, item_ids: Collection[str]) -> dict[str, str]:
    """Names of some items; an item that has none, or an empty one, is not among them.

    Raises:
        DataError: It is no Parquet file with these two columns.
    """
    try:
        found = pq.read_schema(file).names
    except (pa.ArrowInvalid, OSError) as error:
        if may_pass(error):
            raise
        raise DataError(f"{file}: {error}", "a Parquet file", SETTING) from error
    if not {"item_id", "name"} <= set(found):
        raise DataError(f"columns {', '.join(found)} in {file}", "item_id and name", SETTING)
    table = pq.read_table(file, columns=["item_id", "name"]).select(["item_id", "name"])
    table = table.cast(pa.schema([("item_id", pa.string()), ("name", pa.string())]))
    table = table.filter(pc.is_in(table["item_id"], pa.array(sorted(item_ids), pa.string())))
    pairs = zip(table["item_id"].to_pylist(), table["name"].to_pylist(), strict=True)
    return {item: name for item, name in pairs if name}
