"""Splitting: which days a night looks at, and which of their actions train, validate, are held out.

`items` and `sequences` both split with this, before anything is counted: support, catalogue and
histories come from training rows only, so that no holdout row can move an index.
"""

from datetime import date, timedelta
from pathlib import Path

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from schemas.errors import MissingInputError
from schemas.interactions import INTERACTIONS
from schemas.partitions import Partition, window
from schemas.settings import Settings, SplitSettings

SPLITS = ("train", "validation", "holdout")
"""In the order of a user's time."""


def history(root: Path, ds: date, settings: Settings) -> list[Partition]:
    """The published interactions of the night's window, oldest first.

    Raises:
        MissingInputError: `ds`, or more days after the first published one than
            `events.max_missing_days` are not published, or none that would be trained on.
    """
    num_days, limit = settings.events.history_days, settings.events.max_missing_days
    partitions = window(root, INTERACTIONS, ds, num_days)
    days = [partition.ds for partition in partitions]
    expected = [days[0] + timedelta(days=n) for n in range((ds - days[0]).days + 1)]
    missing = [str(day) for day in expected if day not in days]
    if len(missing) > limit:
        raise MissingInputError(
            f"no interactions of {', '.join(missing)}",
            f"at most {limit} missing days (events.max_missing_days) between {days[0]} and {ds}",
            "deliver their events and run python -m jobs.interactions for each",
        )
    if days[0] > (last := ds - timedelta(days=settings.split.days_apart)):
        raise MissingInputError(
            f"no interactions before {days[0]}",
            f"some until {last}, the last day to train on",
            "deliver earlier events, or lower split.holdout_days or split.validation_days",
        )
    return partitions


def oldest_first() -> list[Column]:
    """The total order of one user's interactions.

    All items of one basket share a timestamp. Ordered by id, some items would always come
    before others and a model would learn the order of ids; a hash of the whole key mixes them,
    the same way on every run.
    """
    mixed = F.xxhash64("user_id", "item_id", "event_type")
    return [F.col("event_time"), mixed, F.col("item_id"), F.col("event_type")]


def newest_first() -> list[Column]:
    """`oldest_first`, reversed."""
    return [column.desc() for column in oldest_first()]


def with_split(interactions: DataFrame, settings: SplitSettings, ds: date) -> DataFrame:
    """Adds `split`, one of `SPLITS`, to interactions of a window that ends at `ds`.

    temporal: the last `holdout_days` days are held out, the `validation_days` before validate.
    leave_one_out: each user's last action is held out, the last but one validates.
    """
    if settings.protocol == "temporal":
        day = F.to_date("event_time")
        is_holdout = day > F.lit(ds - timedelta(days=settings.holdout_days))
        is_validation = day > F.lit(ds - timedelta(days=settings.days_apart))
    else:
        from_last = F.row_number().over(Window.partitionBy("user_id").orderBy(*newest_first()))
        is_holdout, is_validation = from_last == 1, from_last == 2
    split = F.when(is_holdout, "holdout").when(is_validation, "validation").otherwise("train")
    return interactions.withColumn("split", split)
