"""Parts: ordered part files that Spark's tasks write themselves, on the shared file system.

A stage whose rows are born in Arrow saves the way back through the JVM: every task writes the
part of the key order that is its own and returns one row about it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.contract import Contract


def write_part(
    folder: Path, prefix: str, number: int, contract: Contract, columns: Mapping[str, Any]
) -> None:
    """Writes rows, sorted by the key, as part `number`; without rows, nothing.

    The parts of a folder are in key order by prefix, then number. A repeated task replaces its
    part whole.
    """
    rows = pa.table(dict(columns), schema=contract.schema)
    if not rows.num_rows:
        return
    unfinished = folder / f".{prefix}-{number}-{os.getpid()}"
    pq.write_table(rows, unfinished, compression="zstd")
    unfinished.replace(folder / f"part-{prefix}-{number:05d}.parquet")
