from datetime import UTC, date, datetime, timedelta

import pytest

from jobs.sequences import build, count_kept, inputs, main
from jobs.splitting import with_split
from schemas.errors import DataError, MissingInputError
from schemas.interactions import INTERACTIONS
from schemas.items import ITEMS
from schemas.partitions import get
from schemas.sequences import SEQUENCES
from schemas.settings import (
    EventsSettings,
    SequencesSettings,
    Settings,
    SparkSettings,
    SplitSettings,
)

DS = date(2017, 10, 31)
SCHEMA = "user_id string, item_id string, event_time timestamp, event_type string, weight double"
INDICES = {"a": 1, "b": 2, "c": 3, "d": 4}
TEMPORAL = {"protocol": "temporal", "holdout_days": 1, "validation_days": 1}


def on(day, hour=12):
    return datetime(2017, 10, day, hour, tzinfo=UTC)


@pytest.fixture
def sequences_of(spark):
    """Sequences of rows (user, item, time): {user: (indices, train, validation, holdout)}."""

    def sequences_of(rows, split=None, **settings):
        frame = spark.createDataFrame([(*row, "", 1.0) for row in rows], SCHEMA)
        items = spark.createDataFrame(list(INDICES.items()), "item_id string, item_index int")
        parted = with_split(frame, SplitSettings(**(split or TEMPORAL)), DS)
        found = build(parted, items, SequencesSettings(**settings)).toArrow().to_pylist()
        return {
            row["user_id"]: (
                row["item_indices"],
                row["num_train"],
                row["num_validation"],
                row["num_holdout"],
            )
            for row in found
        }

    return sequences_of


@pytest.fixture
def publish_night(publish_rows):
    """Publishes interactions (user, item, time), a partition a day, and the items of `INDICES`."""

    def publish_night(rows):
        for day in sorted({time.date() for _, _, time in rows}):
            rows_of_day = [
                {"user_id": u, "item_id": i, "event_time": t, "event_type": "", "weight": 1.0}
                for u, i, t in rows
                if t.date() == day
            ]
            publish_rows(INTERACTIONS, rows_of_day, day)
        publish_rows(
            ITEMS,
            [
                {"item_index": n, "item_id": i, "support": 1, "first_seen": on(1)}
                | {"last_seen": on(1)}
                for i, n in INDICES.items()
            ],
        )

    return publish_night


def settings(shuffle_partitions=4, **sequences):
    return Settings(
        events=EventsSettings(history_days=9, max_missing_days=9),
        split=SplitSettings(**TEMPORAL),
        sequences=SequencesSettings(**sequences),
        spark=SparkSettings(shuffle_partitions=shuffle_partitions),
    )


def test_a_history_is_oldest_first_and_split_in_that_order(sequences_of):
    rows = [
        ("u", "d", on(31)),
        ("u", "a", on(29)),
        ("u", "c", on(30, 9)),
        ("u", "b", on(28)),
        ("u", "a", on(30, 7)),
        ("u", "b", on(29, 13)),
    ]
    assert sequences_of(rows) == {"u": ([2, 1, 2, 1, 3, 4], 3, 2, 1)}


def test_leave_one_out_keeps_the_last_two_apart(sequences_of):
    rows = [("u", item, on(day)) for day, item in enumerate("abcd", start=1)]
    assert sequences_of(rows, {"protocol": "leave_one_out"}) == {"u": ([1, 2, 3, 4], 2, 1, 1)}


def test_actions_on_items_outside_the_catalogue_are_dropped(sequences_of):
    rows = [("u", "a", on(1)), ("u", "new", on(2)), ("u", "b", on(3)), ("u", "newer", on(31))]
    assert sequences_of(rows) == {"u": ([1, 2], 2, 0, 0)}


def test_an_unknown_last_action_does_not_make_the_one_before_it_the_holdout(sequences_of):
    rows = [("u", item, on(day)) for day, item in enumerate(["a", "b", "c", "new"], start=1)]
    assert sequences_of(rows, {"protocol": "leave_one_out"}) == {"u": ([1, 2, 3], 2, 1, 0)}


def test_a_user_without_enough_training_actions_has_no_row(sequences_of):
    rows = [("u", "a", on(1)), ("u", "b", on(2)), ("v", "a", on(1)), ("w", "a", on(31))]
    assert sequences_of(rows).keys() == {"u", "v"}
    assert sequences_of(rows, min_history=2).keys() == {"u"}


def test_each_split_keeps_its_most_recent_actions(sequences_of):
    days = [(1, "a"), (2, "b"), (3, "c"), (30, "a"), (31, "b")]
    rows = [("u", item, on(day, hour)) for day, item in days for hour in (1, 2)]
    assert sequences_of(rows, max_history=3) == {"u": ([2, 3, 3, 1, 1, 2, 2], 3, 2, 2)}


def test_op19_a_bot_is_cut_to_the_most_recent_history(spark):
    times = "timestamp_seconds(1506816000 + id)"  # 2017-10-01 on, a second apart
    bot = spark.range(50_000).selectExpr(
        "'bot' user_id", "'a' item_id", f"{times} event_time", "'' event_type", "1.0D weight"
    )
    items = spark.createDataFrame([("a", 1)], "item_id string, item_index int")
    parted = with_split(bot, SplitSettings(**TEMPORAL), DS)
    row = build(parted, items, SequencesSettings(max_history=10)).toArrow().to_pylist()[0]
    last = datetime(2017, 10, 1, tzinfo=UTC) + timedelta(seconds=49_999)
    assert row["event_times"] == [last - timedelta(seconds=n) for n in range(9, -1, -1)]
    assert row["num_train"] == 10


@pytest.mark.parametrize("protocol", ["temporal", "leave_one_out"])
def test_training_prefixes_do_not_see_what_is_not_trained_on(sequences_of, protocol):
    split = TEMPORAL | {"protocol": protocol}
    training = [("u", "a", on(20)), ("u", "b", on(20)), ("v", "c", on(20)), ("v", "a", on(21))]
    later = [(user, item, on(day)) for user in "uv" for item, day in (("a", 30), ("c", 31))]
    changed = [(user, item, on(day)) for user in "uv" for item, day in (("d", 30), ("b", 31))]
    before, after = sequences_of(training + later, split), sequences_of(training + changed, split)
    assert before != after
    for user in "uv":
        assert before[user][0][:2] == after[user][0][:2]
        assert before[user][1] == after[user][1] == 2


def test_counts_are_of_users_those_at_max_history_and_positions_by_split(spark):
    rows = [("u", 2, 1, 0), ("v", 3, 0, 4)]
    columns = "user_id string, num_train int, num_validation int, num_holdout int"
    assert count_kept(spark.createDataFrame(rows, columns), max_history=3) == {
        "users": 2,
        "users_at_max_history": 1,
        "train": 5,
        "validation": 1,
        "holdout": 4,
    }


def test_a_night_publishes_sequences_and_counts_what_it_dropped(
    spark, publish_night, make_night, tmp_path
):
    rows = [("u", "a", on(28)), ("u", "b", on(29)), ("u", "new", on(29, 13)), ("u", "c", on(31))]
    publish_night([*rows, ("v", "a", on(31))])
    main(make_night(settings()))
    partition = get(tmp_path, SEQUENCES, DS)
    assert partition.read().to_pylist() == [
        {
            "user_id": "u",
            "item_indices": [1, 2, 3],
            "event_times": [on(28), on(29), on(31)],
            "num_train": 2,
            "num_validation": 0,
            "num_holdout": 1,
        }
    ]
    assert partition.manifest.notes == {
        "users": 1,
        "users_at_max_history": 0,
        "train": 2,
        "validation": 0,
        "holdout": 1,
        "dropped_users": 1,
        "dropped_positions": 2,
        "most_actions_of_a_user": 4,
        "most_active_user": "u",
    }


def test_op20_equal_times_give_one_digest_on_any_number_of_partitions(
    spark, publish_night, make_night, tmp_path
):
    users = [f"u{n}" for n in range(30)]
    publish_night([(u, item, on(day)) for u in users for item in "abcd" for day in (28, 29, 31)])
    digests = set()
    for shuffle_partitions in (1, 7):
        main(make_night(settings(shuffle_partitions, max_history=6)))
        digests.add(get(tmp_path, SEQUENCES, DS).manifest.content_digest)
    assert len(digests) == 1


def test_a_night_without_a_user_to_train_on_is_a_data_error(spark, publish_night, make_night):
    publish_night([("u", "a", on(29)), ("u", "b", on(31))])
    with pytest.raises(DataError, match=r"no user with 2 .* sequences\.min_history"):
        main(make_night(settings(min_history=2)))


def test_op15_a_night_without_items_is_named(publish_night, publish_rows, tmp_path):
    row = {"user_id": "u", "item_id": "a", "event_time": on(28), "event_type": "", "weight": 1.0}
    publish_rows(INTERACTIONS, [row], date(2017, 10, 28))
    publish_rows(INTERACTIONS, [row | {"event_time": on(31)}])
    with pytest.raises(MissingInputError, match="no items of 2017-10-31"):
        inputs(tmp_path, DS, settings())


def test_inputs_are_the_window_and_the_items_of_the_night(publish_night, tmp_path):
    publish_night([("u", "a", on(28)), ("u", "b", on(31))])
    found = [(source.table, source.ds) for source in inputs(tmp_path, DS, settings())]
    assert found == [
        ("interactions", "2017-10-28"),
        ("interactions", "2017-10-31"),
        ("items", "2017-10-31"),
    ]
