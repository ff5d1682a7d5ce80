"""Settings of the DAGs: when nights begin, how they are tried again, and who is told."""

import re
from datetime import date, datetime, timedelta
from itertools import islice, pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.jobs_settings import Frozen, UnfitError

DAYS_LOOKED_AT = 400
"""Of a schedule: every weekday, month and day of a month are among them."""


class ScheduleSettings(Frozen):
    cron: str = "0 2 * * *"
    """When a night starts (UTC), once every day; it handles the day that ended before."""
    start_date: str = Field("2000-01-01", pattern=r"^\d{4}-\d{2}-\d{2}$")
    """First day the schedule knows; Airflow runs no task of an earlier one."""
    freshness_cron: str = "30 * * * *"
    """When the champion's freshness is looked at (UTC)."""
    retries: int = Field(3, ge=0)
    """Retries after an infrastructure error; data errors are never retried."""
    retry_delay_seconds: float = Field(60.0, ge=0)
    """First delay before a retry; later ones grow exponentially, with jitter."""
    turn_seconds: float = Field(60.0, ge=5)
    """How long a run waits before it looks for another's end again; Airflow loses hastier tasks."""

    @model_validator(mode="after")
    def _times_are_times(self) -> Self:
        for key in ("cron", "freshness_cron"):
            cron = getattr(self, key)
            if cron == type(self).model_fields[key].default:
                continue
            if not _is_cron(cron):
                expected = "minute, hour, day, month and weekday, such as 0 2 * * *"
                raise UnfitError(f"schedule.{key}", repr(cron), expected)
            if key == "cron" and not _is_daily(cron):
                expected = "one night for every day, such as 0 2 * * *"
                raise UnfitError(f"schedule.{key}", repr(cron), expected)
        try:
            date.fromisoformat(self.start_date)
        except ValueError as error:
            raise UnfitError(
                "schedule.start_date", repr(self.start_date), "a day, YYYY-MM-DD"
            ) from error
        return self


def _is_cron(text: str) -> bool:
    """Whether it is five fields or a name such as @daily, and comes true some day."""
    from croniter import CroniterError, croniter  # every start of a stage would pay for it

    is_random = re.match(r"R\b|.* R\b", text) is not None  # another time at every look
    is_long_enough = text.startswith("@") or len(text.split()) == 5
    try:
        return is_long_enough and not is_random and bool(croniter(text).get_next())
    except CroniterError:
        return False


def _is_daily(cron: str) -> bool:
    """Whether a year and more of a valid cron has one time on every day."""
    from croniter import croniter

    times = croniter(cron, datetime(2000, 1, 1)).all_next(datetime)
    days = [time.date() for time in islice(times, DAYS_LOOKED_AT)]
    return all(after - before == timedelta(days=1) for before, after in pairwise(days))


class AlertsSettings(Frozen):
    channel: Literal["file", "smtp", "webhook"] = "file"
    """Who is told of failures besides `alerts/alerts.jsonl` under the root."""
    connection: str = ""
    """Airflow connection of the channel; empty takes smtp_default or penumbra_webhook."""
    to: str = ""
    """Who gets e-mail, separated by commas."""
    runbook: str = "docs/runbook.md"
    """Address of the runbook, as alerts give it; the entry's anchor follows."""

    @model_validator(mode="after")
    def _mail_has_an_address(self) -> Self:
        if self.channel == "smtp" and not self.to.strip():
            raise UnfitError("alerts.to", "''", "an address for alerts.channel = smtp")
        return self
