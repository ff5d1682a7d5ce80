from datetime import UTC, date, datetime

import pytest

from jobs.splitting import history, oldest_first, with_split
from schemas.errors import MissingInputError
from schemas.interactions import INTERACTIONS
from schemas.settings import EventsSettings, Settings, SplitSettings

DS = date(2017, 10, 31)
SCHEMA = "user_id string, item_id string, event_time timestamp, event_type string, weight double"


def on(day, hour=12, month=10):
    return datetime(2017, month, day, hour, tzinfo=UTC)


@pytest.fixture
def split(spark):
    """Splits rows of (user, item, time); returns {(user, item): split}."""

    def split(rows, **settings):
        frame = spark.createDataFrame([(*row, "", 1.0) for row in rows], SCHEMA)
        found = with_split(frame, SplitSettings(**settings), DS).collect()
        return {(row.user_id, row.item_id): row.split for row in found}

    return split


@pytest.fixture
def publish_days(publish_rows):
    def publish_days(*days):
        for day in days:
            row = {"user_id": "u", "item_id": "i", "event_time": on(day), "event_type": ""}
            publish_rows(INTERACTIONS, [row | {"weight": 1.0}], date(2017, 10, day))

    return publish_days


def settings(history_days=9, max_missing_days=0, **split):
    events = EventsSettings(history_days=history_days, max_missing_days=max_missing_days)
    split = {"holdout_days": 2, "validation_days": 1} | split
    return Settings(events=events, split=SplitSettings(**split))


def test_temporal_holds_out_the_last_days_and_validates_on_those_before(split):
    rows = [
        ("u", "train", on(26, 23)),
        ("u", "validation first", on(27, 0)),
        ("u", "validation last", on(28, 23)),
        ("u", "holdout first", on(29, 0)),
        ("v", "holdout last", on(31, 23)),
    ]
    found = split(rows, protocol="temporal", holdout_days=3, validation_days=2)
    assert {(item, split) for (_, item), split in found.items()} == {
        (item, item.split()[0]) for _, item, _ in rows
    }


def test_temporal_without_validation_days_has_none(split):
    rows = [("u", "a", on(30)), ("u", "b", on(31))]
    found = split(rows, protocol="temporal", holdout_days=1, validation_days=0)
    assert found == {("u", "a"): "train", ("u", "b"): "holdout"}


def test_leave_one_out_takes_each_users_last_two_actions(split):
    rows = [
        ("u", "a", on(1)),
        ("u", "b", on(2)),
        ("u", "c", on(3)),
        ("u", "d", on(4)),
        ("v", "a", on(1)),
        ("v", "b", on(2)),
        ("w", "a", on(1)),
    ]
    assert split(rows, protocol="leave_one_out") == {
        ("u", "a"): "train",
        ("u", "b"): "train",
        ("u", "c"): "validation",
        ("u", "d"): "holdout",
        ("v", "a"): "validation",
        ("v", "b"): "holdout",
        ("w", "a"): "holdout",
    }


def test_items_of_one_moment_come_in_an_order_that_no_item_leads_for_all_users(spark):
    rows = [(f"u{n}", item, on(31), "", 1.0) for n in range(40) for item in ("a", "b")]
    ordered = spark.createDataFrame(rows, SCHEMA).orderBy("user_id", *oldest_first()).collect()
    num_led_by_a = sum(row.item_id == "a" for row in ordered[::2])
    assert 10 <= num_led_by_a <= 30


def test_leave_one_out_takes_the_last_of_the_common_order(spark, split):
    rows = [("u", item, on(31)) for item in "abcdef"]
    frame = spark.createDataFrame([(*row, "", 1.0) for row in rows], SCHEMA)
    in_order = [row.item_id for row in frame.orderBy(*oldest_first()).collect()]
    found = split(rows, protocol="leave_one_out")
    assert [item for (_, item), split in found.items() if split == "holdout"] == [in_order[-1]]
    assert [item for (_, item), split in found.items() if split == "validation"] == [in_order[-2]]


def test_history_is_the_window_that_ends_at_the_date(publish_days, tmp_path):
    publish_days(25, 26, 27, 28, 29, 30, 31)
    days = [p.manifest.ds[-2:] for p in history(tmp_path, DS, settings(history_days=5))]
    assert days == ["27", "28", "29", "30", "31"]


def test_op15_missing_days_after_the_first_are_named(publish_days, tmp_path):
    publish_days(26, 28, 30, 31)
    with pytest.raises(MissingInputError, match="no interactions of 2017-10-27, 2017-10-29"):
        history(tmp_path, DS, settings(max_missing_days=1))
    assert len(history(tmp_path, DS, settings(max_missing_days=2))) == 4


def test_op15_a_night_that_is_not_published_itself_is_named(publish_days, tmp_path):
    publish_days(28, 29, 30)
    with pytest.raises(MissingInputError, match="no interactions of 2017-10-31"):
        history(tmp_path, DS, settings(max_missing_days=9))


def test_a_history_too_short_to_train_on_is_an_error(publish_days, tmp_path):
    publish_days(29, 30, 31)
    with pytest.raises(MissingInputError, match=r"no interactions before 2017-10-29; .*2017-10-28"):
        history(tmp_path, DS, settings())
    assert len(history(tmp_path, DS, settings(protocol="leave_one_out"))) == 3
