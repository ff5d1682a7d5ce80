"""Items: one row per catalogue item, its dense index and its support.

Reads:    interactions, items of the night before
Writes:   items
If late:  sequences waits; yesterday's champion keeps serving.

Indices are append-only: a night never renumbers, so it can start from yesterday's weights.
"""

from datetime import date
from pathlib import Path

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.spark import publish, read, session, struct_type
from jobs.splitting import history, with_split
from schemas.command import Night, Stage, run
from schemas.errors import ContractError, DataError
from schemas.items import ITEMS
from schemas.partitions import Input, latest_before
from schemas.settings import Settings


def inputs(root: Path, ds: date, settings: Settings) -> list[Input]:
    """The window's interactions and the newest items older than the night."""
    known = latest_before(root, ITEMS, ds)
    partitions = [*history(root, ds, settings), *([known] if known else [])]
    return [partition.as_input() for partition in partitions]


STAGE = Stage(
    module="jobs.items",
    doc=__doc__,
    writes=(ITEMS,),
    inputs=inputs,
    settings=("events", "split", "items"),
)


def main(night: Night) -> None:
    """Publishes yesterday's items with tonight's support, and those that newly reached it."""
    settings = night.settings
    partitions = history(night.root, night.ds, settings)
    known = latest_before(night.root, ITEMS, night.ds)
    spark = session("items", settings.spark)
    split = with_split(read(spark, partitions), settings.split, night.ds)
    training = split.where(F.col("split") == "train")
    empty = spark.createDataFrame([], struct_type(ITEMS))
    known_items = read(spark, [known]) if known else empty
    num_known = known.manifest.rows if known else 0
    min_support = settings.items.min_support
    items = catalogue(training, known_items, num_known, min_support)
    items = items.persist(StorageLevel.MEMORY_AND_DISK)
    num_items = items.count()
    if not num_items:
        raise DataError(
            f"no item with {min_support} training interactions up to {night.ds}",
            "at least one that reaches items.min_support",
            "more events (events.history_days), or lower items.min_support",
        )
    check_append_only(known_items, items, num_items)
    publish(night, ITEMS, items, notes={"known": num_known, "new": num_items - num_known})
    items.unpersist()


def catalogue(training: DataFrame, known: DataFrame, num_known: int, min_support: int) -> DataFrame:
    """The night's items.

    Args:
        training: Interactions that train, of tonight's window.
        known: Yesterday's items, indices 1 to `num_known`; they stay whatever their support.
        num_known: Rows of `known`.
        min_support: Training interactions that an item not yet known needs.

    Returns:
        Rows of the items contract; new items follow the known ones in the order of
        (`first_seen`, `item_id`).
    """
    seen = training.groupBy("item_id").agg(
        F.count("*").alias("support"),
        F.min("event_time").alias("first_seen"),
        F.max("event_time").alias("last_seen"),
    )
    before = known.select(
        "item_index",
        "item_id",
        F.col("first_seen").alias("first"),
        F.col("last_seen").alias("last"),
    )
    kept = before.join(seen, "item_id", "left").select(
        "item_index",
        "item_id",
        F.coalesce("support", F.lit(0)).cast("long").alias("support"),
        F.least("first", "first_seen").alias("first_seen"),
        F.greatest("last", "last_seen").alias("last_seen"),
    )
    # New items are few, one partition numbers them.
    number = F.row_number().over(Window.orderBy("first_seen", "item_id"))
    is_supported = F.col("support") >= min_support
    added = (
        seen.where(is_supported)
        .join(before, "item_id", "left_anti")
        .withColumn("item_index", (number + num_known).cast("int"))
    )
    return kept.unionByName(added).select(*ITEMS.columns)


def check_append_only(known: DataFrame, items: DataFrame, num_items: int) -> None:
    """Refuses items that renumber a known one or leave a gap.

    Raises:
        ContractError: Naming one lost pair, or the greatest index.
    """
    pair = ["item_index", "item_id"]
    lost = known.join(items, pair, "left_anti").orderBy("item_index").select(*pair).first()
    if lost:
        raise ContractError(
            f"item_index {lost.item_index} no longer stands for item {lost.item_id!r}",
            "yesterday's indices unchanged",
            "jobs.items",
        )
    greatest = items.agg(F.max("item_index")).first()[0]
    if greatest != num_items:
        raise ContractError(
            f"{num_items} items with indices up to {greatest}", "dense indices from 1", "jobs.items"
        )


if __name__ == "__main__":
    run(STAGE, main)
