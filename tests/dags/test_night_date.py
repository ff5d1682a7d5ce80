from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from dags.night_date import resolve
from schemas.errors import UsageError

NOW = datetime(2017, 11, 1, 2, 0, tzinfo=UTC)


def test_op16_a_scheduled_run_is_about_the_day_its_interval_starts():
    assert resolve(None, datetime(2017, 10, 31, 2, 0, tzinfo=UTC), NOW) == date(2017, 10, 31)


def test_op16_a_manual_run_for_midnight_is_about_that_day():
    assert resolve(None, datetime(2017, 10, 31, tzinfo=UTC), NOW) == date(2017, 10, 31)


def test_op16_the_parameter_wins_over_the_logical_date():
    assert resolve("2017-10-30", datetime(2017, 10, 31, tzinfo=UTC), NOW) == date(2017, 10, 30)


def test_op16_the_day_of_a_logical_date_is_its_day_in_utc():
    late = datetime(2017, 10, 30, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    assert resolve(None, late, NOW) == date(2017, 10, 31)


def test_op16_without_any_date_the_error_says_how_to_pass_one():
    with pytest.raises(UsageError, match=r'--conf \'\{"ds": "2017-10-31"\}\''):
        resolve(None, None, NOW)


@pytest.mark.parametrize("ds", ["31.10.2017", "2017-02-30", "yesterday"])
def test_op16_what_is_not_a_date_is_named(ds):
    with pytest.raises(UsageError, match=ds):
        resolve(ds, None, NOW)


@pytest.mark.parametrize("ds", ["2017-11-01", "2017-11-02"])
def test_op16_a_day_that_is_not_over_is_refused(ds):
    with pytest.raises(UsageError, match=rf"ds {ds}, a day that is not over \(today is 2017-11-01"):
        resolve(ds, None, NOW)
