"""Health: the night's day beside the weeks before it, and whether the night may go on.

Reads:    interactions, health of earlier days, items of the last night
Writes:   health
If late:  items waits; yesterday's champion keeps serving.

It stands before `items`, because item indices are append-only: what a broken day brings into the
catalogue stays there. So a day that stopped its night stops the later ones that would read it too,
until it was delivered again or accepted, and a day that had no night of its own since the first is
judged before tonight's. It reads manifests and two columns, and starts no Spark. What is in
quarantine it takes from the interactions' manifest: quarantine is published first, so after a
delivery that was refused it may be of other files than the interactions are.
The table is published first, so that one can look at it, then a number beyond its limit fails the
stage, on every try. A median says what is usual, so that one bad day among the weeks does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc

from jobs.drift import drift_of
from schemas.command import Night, Stage, closing_line, find_own, run
from schemas.errors import HealthError
from schemas.health import HEALTH
from schemas.interactions import INTERACTIONS
from schemas.items import ITEMS
from schemas.partitions import (
    Input,
    Partition,
    current_run,
    get,
    partition_path,
    published_dates,
    window,
)
from schemas.settings import HealthSettings, Settings

Limits = tuple[float | None, float | None]
"""The least and the greatest value that let a night go on; None where there is no such limit."""

DAYS_PER_WEEK = 7
STOPPED_BY = "stopped_by"
"""Note in the manifest: metrics that stop whoever reads the day; none where a dry run of the day's
own night accepted them.
"""
SETTINGS = {
    "volume": ("health.min_volume", "health.max_volume"),
    "quarantine_rate": ("", "health.max_quarantine_rise"),
    "freshness": ("", "health.max_age_hours"),
    "drift": ("", "health.max_drift_rise"),
}
"""The settings that `at_least` and `at_most` of a metric come from."""


@dataclass(frozen=True)
class Row:
    """One row of the table; the contract says what the columns mean."""

    metric: str
    value: float | None
    usual: float | None
    at_least: float | None
    at_most: float | None
    verdict: str
    num_days: int


def inputs(root: Path, ds: date, settings: Settings) -> list[Input]:
    """Interactions of the night and of the weeks before it."""
    return [day.as_input() for day in days_of(root, ds, settings.health)]


STAGE = Stage(
    module="jobs.health",
    doc=__doc__,
    writes=(HEALTH,),
    inputs=inputs,
    settings=("health",),
    always=True,
)


def main(night: Night) -> None:
    """Publishes the night's numbers, then fails if one is beyond its limit, or was on a day before.

    Raises:
        HealthError: Naming every number beyond its limit, or every earlier day of the window that
            was beyond one, unless `health.mode` is `dry_run`.
    """
    settings = night.settings.health
    for ds in passed_over(night):
        print(f"health {ds}: judged now, since nobody has judged what is published", flush=True)
        judge_day(night, ds, is_enforced=True)  # a dry run is of its own day alone
    rows, published = judge_day(night, night.ds, is_enforced=settings.mode == "enforce")
    beyond = [row for row in rows if row.verdict == "beyond"]
    stopped = stopped_before(night)
    if beyond and settings.mode == "enforce":
        raise explain(night.ds, beyond, published)
    if stopped and settings.mode == "enforce":
        raise explain_earlier(stopped)
    for row in beyond:
        print(f"health {night.ds}: {_found(row)} is beyond its limit, dry run", flush=True)
    for day in stopped:
        print(f"health {night.ds}: {day.manifest.ds} was beyond its limits, dry run", flush=True)


def passed_over(night: Night) -> list[date]:
    """Earlier days of the window, since the first that was judged, whose rows nobody has judged.

    Their night never ran, or died before it came to this, or they were delivered again since: an
    outage, a correction, or what came late. It is too late for what the catalogue has learned, as a
    first night does from all days before it.
    """
    start = night.ds - timedelta(days=night.settings.events.history_days - 1)
    judged = published_dates(night.root, HEALTH)
    since = max(start, min(judged, default=night.ds))
    days = published_dates(night.root, INTERACTIONS)
    days = [day for day in days if since <= day < night.ds]
    health = {day: get(night.root, HEALTH, day) for day in days if day in judged}
    root = night.root
    new = [day for day in days if day not in health or not is_made_of(root, health[day], day)]
    nights = [day for day in published_dates(night.root, ITEMS) if new and day < night.ds]
    learned = get(night.root, ITEMS, max(nights)) if nights else None
    return [day for day in new if learned is None or not is_made_of(root, learned, day)]


def is_made_of(root: Path, partition: Partition, day: date) -> bool:
    """Whether a partition was made of a day's interactions as they are published now."""
    for source in partition.manifest.inputs:
        if (source["table"], source["ds"]) == (INTERACTIONS.table, day.isoformat()):
            is_same = source["run"] == current_run(partition_path(root, INTERACTIONS, day))
            published = None if is_same else get(root, INTERACTIONS, day).manifest
            return published is None or source["digest"] == published.content_digest
    return False


def judge_day(night: Night, ds: date, *, is_enforced: bool) -> tuple[list[Row], Partition]:
    """The rows of a day beside the weeks before it, and its published partition of them."""
    days = days_of(night.root, ds, night.settings.health)
    rows = measure(days[-1], days[:-1], night.settings.health)
    beyond = [row.metric for row in rows if row.verdict == "beyond"]
    notes: dict[str, object] = {STOPPED_BY: sorted(beyond) if is_enforced else []}
    return rows, publish_once(night, ds, rows, notes, [day.as_input() for day in days])


def days_of(root: Path, ds: date, settings: HealthSettings) -> list[Partition]:
    """Interactions of the weeks before a night, oldest first, and of the night itself."""
    return window(root, INTERACTIONS, ds, DAYS_PER_WEEK * settings.weeks + 1)


def measure(today: Partition, earlier: Sequence[Partition], settings: HealthSettings) -> list[Row]:
    """All rows of a night.

    Args:
        today: Interactions of the night's own day.
        earlier: Interactions of published days of the weeks before it, oldest first.
        settings: Limits, and how many comparable days a verdict needs.
    """
    same_weekday = [
        day.manifest.rows for day in earlier if (today.ds - day.ds).days % DAYS_PER_WEEK == 0
    ]
    # Of a weekday there is one in a week.
    weekdays = min(settings.min_days, settings.weeks)
    rate, rates = quarantine_rate(today), [quarantine_rate(day) for day in earlier]
    drift, drifts = drift_of([*earlier, today])

    def volume_limits(usual: float) -> Limits:
        return usual * settings.min_volume, usual * settings.max_volume

    def rate_limits(usual: float) -> Limits:
        return None, usual + settings.max_quarantine_rise

    def drift_limits(usual: float) -> Limits:
        return None, usual + settings.max_drift_rise

    return [
        judge("volume", today.manifest.rows, same_weekday, volume_limits, weekdays),
        judge("quarantine_rate", rate, rates, rate_limits, settings.min_days),
        judge_age(age_hours(today), settings.max_age_hours),
        judge("drift", drift, drifts, drift_limits, settings.min_days),
    ]


def judge(
    metric: str,
    value: float | None,
    comparable: Sequence[float],
    limits: Callable[[float], Limits],
    min_days: int,
) -> Row:
    """One row: within its limits, beyond them, or not judged for lack of comparable days."""
    usual, num_days = (median(comparable) if comparable else None), len(comparable)
    if value is None or usual is None or num_days < min_days:
        return Row(metric, value, usual, None, None, "not_judged", num_days)
    low, high = limits(usual)
    is_within = (low is None or value >= low) and (high is None or value <= high)
    return Row(metric, value, usual, low, high, "within" if is_within else "beyond", num_days)


def judge_age(age: float, limit: float) -> Row:
    """The row of freshness: a day that was cut off shows by itself, without any history."""
    return Row("freshness", age, None, None, limit, "within" if age <= limit else "beyond", 0)


def quarantine_rate(day: Partition) -> float:
    """Share of a day's rows, without duplicates, that were quarantined when it was published."""
    rejected: int = day.manifest.notes["quarantine"]
    return rejected / (rejected + day.manifest.rows)


def age_hours(day: Partition) -> float:
    """Hours from the newest event of a day to its end."""
    newest = pc.max(day.read(["event_time"])["event_time"]).as_py()
    end = datetime.combine(day.ds + timedelta(days=1), datetime.min.time(), UTC)
    return (end - newest) / timedelta(hours=1)


def publish_once(
    night: Night,
    ds: date,
    rows: Sequence[Row],
    notes: dict[str, object],
    sources: Sequence[Input],
) -> Partition:
    """Publishes the rows, unless they are what is published from the same inputs already."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=HEALTH.schema)
    table = table.sort_by("metric")
    published = find_own(night.root, HEALTH, ds)
    if published and published.read().equals(table):
        m = published.manifest
        if (m.fingerprint, m.notes) == (night.fingerprint, notes):
            print(closing_line(published, "unchanged since"), flush=True)
            return published
    draft = night.draft(HEALTH, ds)
    draft.notes |= notes
    draft.write(table)
    return night.publish(draft, ds, sources)


def explain(ds: date, beyond: Sequence[Row], published: Partition) -> HealthError:
    """The error of a night that may not go on: every number with its limit and setting."""
    return HealthError(
        f"{', '.join(_found(row) for row in beyond)} of {ds}",
        ", ".join(_expected(row) for row in beyond),
        "the export, then run the night again; or, if the day really was like that, this run with "
        f"another limit or health.mode = dry_run; all numbers are in {published.path}",
    )


def stopped_before(night: Night) -> list[Partition]:
    """Health of earlier days of the window that were beyond their limits, oldest first."""
    start = night.ds - timedelta(days=night.settings.events.history_days - 1)
    dates = [day for day in published_dates(night.root, HEALTH) if start <= day < night.ds]
    found = [get(night.root, HEALTH, day) for day in dates]
    return [partition for partition in found if partition.manifest.notes.get(STOPPED_BY)]


def explain_earlier(stopped: Sequence[Partition]) -> HealthError:
    """The error of a night whose window has days that stopped their own."""
    why = {day.manifest.ds: ", ".join(day.manifest.notes[STOPPED_BY]) for day in stopped}
    return HealthError(
        " and ".join(f"{ds} in the window, stopped by its {names}" for ds, names in why.items()),
        "days within their limits, or accepted",
        f"deliver {', '.join(why)} again and repeat that night; or, if the day really was like "
        "that, repeat it with another limit or health.mode = dry_run; then this night",
    )


def _found(row: Row) -> str:
    usually = f" (usually {_number(row.usual)})" if row.usual is not None else ""
    return f"{row.metric} {_number(row.value)}{usually}"


def _expected(row: Row) -> str:
    is_low = row.at_least is not None and row.value is not None and row.value < row.at_least
    limit, setting = (row.at_least, 0) if is_low else (row.at_most, 1)
    words = "at least" if is_low else "at most"
    return f"{words} {_number(limit)} ({SETTINGS[row.metric][setting]})"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


if __name__ == "__main__":
    run(STAGE, main)
