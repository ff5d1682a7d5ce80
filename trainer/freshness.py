"""Freshness: whether the champion was trained on data as new as they must be.

Reads:    the registered champion
Writes:   nothing; it succeeds or says what is wrong
If late:  nobody hears that yesterday's champion is still serving.

Age counts from the end of the champion's last training day to now, or to the end of `ds` where
that is past. The days of the holdout, which no model has trained on, are part of it. Without a
champion nothing serves, so it fails at once.
"""

from datetime import UTC, date, datetime, timedelta

from schemas.command import Night, Stage, run
from schemas.errors import StaleChampionError
from schemas.settings import Settings
from trainer.registry import champion
from trainer.versions import Version

STAGE = Stage(
    module="trainer.freshness",
    doc=__doc__,
    writes=(),
    inputs=lambda root, ds, settings: (),
    settings=("health", "registry"),
    always=True,
)


def main(night: Night) -> None:
    """Prints the champion's age.

    Raises:
        StaleChampionError: There is no champion, or its data are too old.
    """
    now = min(datetime.now(UTC), end_of(night.ds))
    print(
        f"freshness {night.ds}: {judge(champion(night.root, night.settings), now, night.settings)}"
    )


def judge(champion: Version | None, now: datetime, settings: Settings) -> str:
    """The age of a champion's data in words.

    Raises:
        StaleChampionError: There is no champion, or its data are too old.
    """
    limit, name = settings.health.freshness_hours, settings.registry.model_name
    if champion is None:
        raise StaleChampionError(
            f"no champion of {name}",
            f"one with data of the last {limit:g} hours (health.freshness_hours)",
            "run a night, and see in its promotion why it held, or unpause nightly_retraining",
        )
    hours = (now - end_of(champion.trained_until)) / timedelta(hours=1)
    age = f"version {champion.number} trained until {champion.trained_until}, {hours:.0f} hours ago"
    if hours > limit:
        raise StaleChampionError(
            f"{age}, of the night {champion.ds}",
            f"at most {limit:g} hours (health.freshness_hours)",
            "see why no night since was promoted: its failed task, its promotions table, or none",
        )
    return f"{age}, may be {limit:g}"


def end_of(day: date) -> datetime:
    """The first instant after a day, UTC."""
    return datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)


if __name__ == "__main__":
    run(STAGE, main)
