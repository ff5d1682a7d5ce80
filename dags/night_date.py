"""Night date: the one place that decides which day a run is about.

A night handles one whole UTC day, `ds`. In this order:

1. the parameter `ds`, where it was given;
2. the day of the run's logical date. For scheduled and backfill runs that is the start of their
   data interval: the run that starts on 1 November at 02:00 has the logical date 31 October
   02:00. The data interval itself is not used, because for a manual run Airflow infers one that
   ends *before* the logical date, which would be the day before the one that was asked for;
3. an error. Runs that an asset triggers, and manual runs without a logical date, have no day of
   their own, and today's would differ from one retry to the next.
"""

from datetime import UTC, date, datetime

from schemas.errors import UsageError

HOW_TO_PASS = (
    'pass one: the field ds of the trigger form, or --conf \'{"ds": "2017-10-31"}\', '
    "or a --logical-date of that day"
)


def resolve(ds: str | None, logical_date: datetime | None, now: datetime) -> date:
    """The day a run is about.

    Args:
        ds: The run's parameter, `YYYY-MM-DD`; None or empty where it was not given.
        logical_date: The run's logical date, with its time zone; None where it has none.
        now: The present, with its time zone.

    Raises:
        UsageError: There is no date, it is not one, or its day is not over yet.
    """
    if ds:
        night = _parse(ds)
    elif logical_date is not None:
        night = logical_date.astimezone(UTC).date()
    else:
        raise UsageError("a run without ds and without a logical date", "one of them", HOW_TO_PASS)
    today = now.astimezone(UTC).date()
    if night >= today:
        raise UsageError(
            f"ds {night}, a day that is not over (today is {today} UTC)",
            f"a day before {today}",
            HOW_TO_PASS,
        )
    return night


def _parse(ds: str) -> date:
    try:
        return datetime.strptime(ds, "%Y-%m-%d").date()
    except ValueError as error:
        raise UsageError(f"ds {ds!r}", "a date such as 2017-10-31", HOW_TO_PASS) from error
