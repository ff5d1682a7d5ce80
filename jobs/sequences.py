"""Sequences: one row per user, the history split into training, validation and holdout.

Reads:    interactions, items
Writes:   sequences
If late:  item_graph and training wait; yesterday's champion keeps serving.
"""

from datetime import date
from pathlib import Path
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.spark import publish, read, session
from jobs.splitting import SPLITS, history, newest_first, with_split
from schemas.command import Night, Stage, run
from schemas.errors import DataError
from schemas.items import ITEMS
from schemas.partitions import Input, get
from schemas.sequences import SEQUENCES
from schemas.settings import SequencesSettings, Settings


def inputs(root: Path, ds: date, settings: Settings) -> list[Input]:
    """The window's interactions and the night's items."""
    partitions = [*history(root, ds, settings), get(root, ITEMS, ds)]
    return [partition.as_input() for partition in partitions]


STAGE = Stage(
    module="jobs.sequences",
    doc=__doc__,
    writes=(SEQUENCES,),
    inputs=inputs,
    settings=("events", "split", "sequences"),
)


def main(night: Night) -> None:
    """Publishes the night's sequences, with counts of what was kept and dropped."""
    settings = night.settings
    partitions = history(night.root, night.ds, settings)
    spark = session("sequences", settings.spark)
    interactions = read(spark, partitions)
    items = read(spark, [get(night.root, ITEMS, night.ds)])
    split = with_split(interactions, settings.split, night.ds)
    sequences = build(split, items, settings.sequences).persist(StorageLevel.MEMORY_AND_DISK)
    notes = count_kept(sequences, settings.sequences.max_history)
    if not notes["users"]:
        raise DataError(
            f"no user with {settings.sequences.min_history} training interactions up to {night.ds}",
            "at least one that reaches sequences.min_history",
            "more events (events.history_days), or lower sequences.min_history",
        )
    num_interactions = sum(partition.manifest.rows for partition in partitions)
    activity = measure_activity(interactions)
    notes["dropped_users"] = activity.pop("users") - notes["users"]
    notes |= activity
    notes["dropped_positions"] = num_interactions - sum(notes[split] for split in SPLITS)
    publish(night, SEQUENCES, sequences, notes=notes)
    sequences.unpersist()


def build(split: DataFrame, items: DataFrame, settings: SequencesSettings) -> DataFrame:
    """Users' histories as lists of item indices.

    Args:
        split: Interactions with their `split`.
        items: The night's items; actions on others are dropped.
        settings: Of each split at most `max_history` most recent actions are kept, and only
            users with `min_history` training actions.

    Returns:
        Rows of the sequences contract.
    """
    catalogued = split.join(items.select("item_id", "item_index"), "item_id")
    # Ranks are cut before lists are collected: a window spills to disk, a list does not.
    recency = F.row_number().over(Window.partitionBy("user_id", "split").orderBy(*newest_first()))
    recent = catalogued.withColumn("recency", recency).where(
        F.col("recency") <= settings.max_history
    )
    order = F.array_position(F.array(*map(F.lit, SPLITS)), F.col("split"))
    position = F.struct(order.alias("split"), -F.col("recency"), "item_index", "event_time")
    users = recent.groupBy("user_id").agg(
        F.sort_array(F.collect_list(position)).alias("positions"),
        *(
            F.count_if(F.col("split") == split).cast("int").alias(f"num_{split}")
            for split in SPLITS
        ),
    )
    return (
        users.where(F.col("num_train") >= settings.min_history)
        .withColumn("item_indices", F.col("positions.item_index"))
        .withColumn("event_times", F.col("positions.event_time"))
        .select(*SEQUENCES.columns)
    )


def measure_activity(interactions: DataFrame) -> dict[str, Any]:
    """All users of the window, and whose actions are most, before anything is cut.

    Of users with as many, it is the one whose id sorts last.
    """
    of_user = interactions.groupBy("user_id").agg(F.count("*").alias("actions"))
    users, most = of_user.agg(F.count("*"), F.max(F.struct("actions", "user_id"))).first()
    return {
        "users": users,
        "most_actions_of_a_user": most.actions,
        "most_active_user": most.user_id,
    }


def count_kept(sequences: DataFrame, max_history: int) -> dict[str, Any]:
    """Users, those with `max_history` training actions or cut to them, and positions by split."""
    sums = (F.coalesce(F.sum(f"num_{split}"), F.lit(0)).alias(split) for split in SPLITS)
    at_max_history = F.count_if(F.col("num_train") == max_history).alias("users_at_max_history")
    return sequences.agg(F.count("*").alias("users"), at_max_history, *sums).first().asDict()


if __name__ == "__main__":
    run(STAGE, main)
