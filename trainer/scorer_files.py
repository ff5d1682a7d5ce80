"""Scorer files: the folder that a scorer is read from, written without loading its model."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq

from schemas.checkpoints import WEIGHTS_FILE
from schemas.partitions import Partition

ITEMS_FILE = "items.parquet"
SETTINGS_FILE = "settings.json"
NAMES = (WEIGHTS_FILE, ITEMS_FILE, SETTINGS_FILE)
ITEM_COLUMNS = ("item_index", "item_id", "support")


def write(folder: Path, checkpoint: Partition, items: Partition) -> list[Path]:
    """Writes weights, items and settings of a night's model into a folder; returns the files."""
    (row,) = checkpoint.read().to_pylist()
    shutil.copyfile(checkpoint.attachment(WEIGHTS_FILE), folder / WEIGHTS_FILE)
    pq.write_table(items.read(ITEM_COLUMNS), folder / ITEMS_FILE, compression="zstd")
    (folder / SETTINGS_FILE).write_text(row["settings"])
    return [folder / name for name in NAMES]
