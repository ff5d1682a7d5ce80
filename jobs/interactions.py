"""Interactions: one row per valid, deduplicated user action of one day.

Reads:    events
Writes:   interactions, quarantine
If late:  items and sequences wait; yesterday's champion keeps serving.

Earlier days of the night's window that have events but no interactions yet are published first,
so that a first night catches up with its whole history in the same Spark jobs.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import pyarrow.parquet as pq
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.event_files import EventFile, event_files, event_folder
from jobs.late_events import days_changed_since
from jobs.raw_rows import raw_rows
from jobs.read_errors import decodable
from jobs.spark import adopt, session
from schemas.command import Night, Stage, run
from schemas.contract import Contract
from schemas.errors import DataError, MissingInputError
from schemas.interactions import INTERACTIONS
from schemas.partitions import Input, Partition, published_dates
from schemas.publishing import Draft
from schemas.quarantine import QUARANTINE
from schemas.settings import Settings

EXAMPLE_CHARACTERS = 300
"""Length at which an error's example row is cut."""


@dataclass
class Tally:
    """What became of one day's rows; `duplicates` are valid ones beyond the first of their key."""

    duplicates: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


def inputs(root: Path, ds: date, settings: Settings) -> list[Input]:
    """The raw files of the night's own day."""
    return [file.as_input() for file in event_files(root, ds, settings.events)]


STAGE = Stage(
    module="jobs.interactions",
    doc=__doc__,
    writes=(INTERACTIONS, QUARANTINE),
    inputs=inputs,
    settings=("events",),
)


def main(night: Night) -> None:
    """Publishes quarantine and interactions of the night, after the days it catches up on."""
    settings = night.settings
    for day in days_changed_since(night):
        again = f"python -m {STAGE.module} --ds {day}"
        found = f"events of {day} changed after they were published"
        print(f"{STAGE.module}: {found}; to take them in: {again}", flush=True)
    days = files_by_day(night)
    files = [file for day in days.values() for file in day]
    lineage = {day: [file.as_input() for file in of_day] for day, of_day in days.items()}
    if extra := sorted({column for file in files for column in file.extra_columns}):
        print(f"{STAGE.module}: ignored the columns {', '.join(extra)}", flush=True)

    judged = judge(raw_rows(session("interactions", settings.spark), files))
    valid = deduplicate(judged).persist(StorageLevel.MEMORY_AND_DISK)
    rejected = reject(judged).persist(StorageLevel.MEMORY_AND_DISK)
    num_files = settings.spark.files_per_table
    num_ranges = num_files * len(days) if num_files > 1 else 0
    with staging_folder(night) as staging, decodable(files):
        write_by_day(rejected, QUARANTINE, staging, num_ranges)
        write_by_day(valid, INTERACTIONS, staging, num_ranges)
        tallies = tally(valid, rejected)
        for day, day_files in days.items():
            refuse_changed(day, day_files, lineage[day])
            publish_day(night, day, day_files, lineage[day], tallies.get(day, Tally()), staging)
    valid.unpersist()
    rejected.unpersist()


def files_by_day(night: Night) -> dict[date, list[EventFile]]:
    """The raw files of every day to publish.

    An earlier day without a row is as good as missing: with `events.missing_day = "skip"` it is
    passed over, and counts towards `events.max_missing_days`.

    Raises:
        MissingInputError: The night's own day has no row; or an earlier one, where days must not
            be missing.
    """
    events, days = night.settings.events, dict[date, list[EventFile]]()
    for day in days_to_publish(night):
        try:
            days[day] = event_files(night.root, day, events)
        except MissingInputError as error:
            if day == night.ds or events.missing_day != "skip":
                raise
            print(f"{STAGE.module}: passed over {error.found}", flush=True)
    return days


def days_to_publish(night: Night) -> list[date]:
    """Days of the window with events but without interactions, oldest first; the night's last."""
    done = set(published_dates(night.root, INTERACTIONS))
    events = night.settings.events
    window = [night.ds - timedelta(days=n) for n in range(events.history_days - 1, 0, -1)]
    delivered = [day for day in window if event_folder(night.root, day, events).is_dir()]
    return [*(day for day in delivered if day not in done), night.ds]


def judge(rows: DataFrame) -> DataFrame:
    """Adds `reason`: null for a valid row, else the first of `REASONS` that applies."""

    def is_blank(name: str) -> Column:
        return F.col(name).isNull() | ~F.col(name).rlike(r"\S")

    amount = F.when(is_blank("weight"), 1.0).otherwise(F.col("amount"))
    # Spark orders NaN above infinity, so one comparison refuses both.
    is_weight = F.coalesce((amount >= 0) & (amount < float("inf")), F.lit(False))
    reason = (
        F.when(F.col("raw").isNotNull(), "malformed_row")
        .when(is_blank("user_id"), "null_user")
        .when(is_blank("item_id"), "null_item")
        .when(F.col("at").isNull(), "unparsable_time")
        .when(F.to_date("at") != F.col("day"), "outside_day")
        .when(~is_weight, "bad_weight")
    )
    return rows.select("*", reason.alias("reason")).withColumn("amount", amount)


def deduplicate(judged: DataFrame) -> DataFrame:
    """Valid rows, one per key and the greatest weight of it, with `day` and its `copies`."""
    # Zero may come signed, and both signs are one weight.
    weight = F.when(F.col("amount") == 0, 0.0).otherwise(F.col("amount"))
    return (
        judged.where(F.col("reason").isNull())
        .select(
            "day",
            "user_id",
            "item_id",
            F.col("at").alias("event_time"),
            F.coalesce("event_type", F.lit("")).alias("event_type"),
            weight.alias("weight"),
        )
        .groupBy("day", *INTERACTIONS.key)
        .agg(F.max("weight").alias("weight"), F.count("*").alias("copies"))
    )


def reject(judged: DataFrame) -> DataFrame:
    """Rejected rows as the quarantine keeps them, with `day`."""
    return judged.where(F.col("reason").isNotNull()).select("day", *QUARANTINE.columns)


def tally(valid: DataFrame, rejected: DataFrame) -> dict[date, Tally]:
    """Duplicates, and counts and one example by reason, of each day."""
    tallies: dict[date, Tally] = {}
    for row in valid.groupBy("day").agg(F.sum(F.col("copies") - 1).alias("duplicates")).collect():
        tallies[row.day] = Tally(row.duplicates)
    example = F.min(F.substring(F.to_json(F.struct(*QUARANTINE.columns)), 1, EXAMPLE_CHARACTERS))
    counts = rejected.groupBy("day", "reason").agg(F.count("*").alias("rows"), example.alias("one"))
    for row in counts.collect():
        day = tallies.setdefault(row.day, Tally())
        day.reasons[row.reason], day.examples[row.reason] = row.rows, row.one
    return tallies


def write_by_day(rows: DataFrame, contract: Contract, staging: Path, num_ranges: int) -> None:
    """Writes rows to `<staging>/<table>/day=…`, in the contract's order.

    One file a day; or `num_ranges` files in all, where a day is too much for one task.
    """
    order = ("day", *contract.order)
    spread = rows.repartitionByRange(num_ranges, *order) if num_ranges else rows.repartition("day")
    ordered = spread.select("day", *contract.columns).sortWithinPartitions(*order)
    ordered.write.partitionBy("day").parquet(str(staging / contract.table))


@contextmanager
def staging_folder(night: Night) -> Iterator[Path]:
    """A folder on the tables' file system for all days' part files, gone afterwards."""
    staging = night.draft(INTERACTIONS).path.parents[1] / f"_staging-{night.token}"
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_changed(day: date, files: Sequence[EventFile], lineage: Sequence[Input]) -> None:
    """Refuses a day whose files are not those that were there before Spark read them.

    Raises:
        DataError: Naming the first that has changed.
    """
    for file, before in zip(files, lineage, strict=True):
        if not file.path.is_file() or file.as_input() != before:
            raise DataError(
                f"{file.path} changed while it was read",
                "files that are complete when they appear",
                f"write elsewhere and move them in; then run this again, {day} is as it was",
            )


def publish_day(
    night: Night,
    day: date,
    files: Sequence[EventFile],
    lineage: Sequence[Input],
    day_tally: Tally,
    staging: Path,
) -> None:
    """Publishes a day's quarantine, then its interactions if enough rows are valid.

    Raises:
        DataError: Too many rows are quarantined, or rows are unaccounted for.
    """
    num_events = sum(file.count_rows() for file in files)
    rejects = _take_over(night, QUARANTINE, day, staging)
    quarantine = night.publish(rejects, day, lineage)
    check_quarantine(night.settings, day, num_events, quarantine, day_tally)
    accepted = _take_over(night, INTERACTIONS, day, staging)
    accepted.notes |= {
        "events": num_events,
        "quarantine": quarantine.manifest.rows,
        "duplicates": day_tally.duplicates,
        "reasons": dict(sorted(day_tally.reasons.items())),
        "extra_columns": sorted({column for file in files for column in file.extra_columns}),
        "files": len(files),
    }
    check_sum(day, accepted)
    night.publish(accepted, day, [*lineage, quarantine.as_input()])


def _take_over(night: Night, contract: Contract, day: date, staging: Path) -> Draft:
    """A draft with the part files Spark wrote for a day; an empty one where it wrote none."""
    draft, written = night.draft(contract, day), staging / contract.table / f"day={day}"
    if written.is_dir():
        adopt(draft, written)
    else:
        draft.write(contract.schema.empty_table())
    return draft


def check_quarantine(
    settings: Settings, day: date, num_events: int, quarantine: Partition, day_tally: Tally
) -> None:
    """Refuses a day of which too much, or everything, is in quarantine.

    Raises:
        DataError: With share, limit, the most frequent reason and one example.
    """
    num_rejected, limit = quarantine.manifest.rows, settings.events.max_quarantine_share
    if num_rejected <= limit * num_events and num_rejected < num_events:
        return
    reason = min(day_tally.reasons, key=lambda name: (-day_tally.reasons[name], name))
    raise DataError(
        f"{num_rejected:,} of {num_events:,} events of {day} ({num_rejected / num_events:.1%}) in "
        f"quarantine, {day_tally.reasons[reason]:,} for {reason} such as "
        f"{day_tally.examples[reason]}",
        f"at most {limit:.1%} (events.max_quarantine_share) and at least one valid row",
        f"the export; all rejected rows are in {quarantine.path}, no interactions were published",
    )


def check_sum(day: date, accepted: Draft) -> None:
    """Compares the rows written with the raw rows counted without Spark.

    Raises:
        DataError: events ≠ interactions + quarantine + duplicates.
    """
    notes, parts = accepted.notes, accepted.path.glob("part-*.parquet")
    num_accepted = sum(pq.read_metadata(part).num_rows for part in parts)
    if notes["events"] != num_accepted + notes["quarantine"] + notes["duplicates"]:
        raise DataError(
            f"{notes['events']:,} raw rows of {day} but {num_accepted:,} interactions + "
            f"{notes['quarantine']:,} quarantined + {notes['duplicates']:,} duplicates",
            "equal numbers",
            "run again if a file was still being written; else report the files of this day",
        )


if __name__ == "__main__":
    run(STAGE, main)
