from datetime import UTC, date, datetime

import pytest

from jobs.items import catalogue, check_append_only, inputs, main
from jobs.spark import struct_type
from jobs.splitting import with_split
from schemas.errors import ContractError, DataError, MissingInputError
from schemas.interactions import INTERACTIONS
from schemas.items import ITEMS
from schemas.partitions import get
from schemas.settings import EventsSettings, ItemsSettings, Settings, SplitSettings

DS = date(2017, 10, 31)
SCHEMA = "user_id string, item_id string, event_time timestamp, event_type string, weight double"


def on(day, hour=12):
    return datetime(2017, 10, day, hour, tzinfo=UTC)


def item(index, name, support=1, first=on(1), last=on(2)):
    return (index, name, support, first, last)


@pytest.fixture
def items_of(spark):
    """The catalogue of training rows (item, time) after known items, as tuples by index."""

    def items_of(training, known=(), min_support=2):
        rows = [(f"u{n}", *row, "", 1.0) for n, row in enumerate(training)]
        frame = spark.createDataFrame(rows, SCHEMA)
        before = spark.createDataFrame(list(known), struct_type(ITEMS))
        found = catalogue(frame, before, len(known), min_support).orderBy("item_index").toArrow()
        return [tuple(row.values()) for row in found.to_pylist()]

    return items_of


@pytest.fixture
def publish_days(publish_rows):
    """Publishes interactions of days given as {day: [(user, item), ...]}."""

    def publish_days(days):
        for day, pairs in days.items():
            rows = [
                {"user_id": user, "item_id": item, "event_time": on(day), "event_type": ""}
                for user, item in pairs
            ]
            weighed = [row | {"weight": 1.0} for row in rows]
            publish_rows(INTERACTIONS, weighed, date(2017, 10, day))

    return publish_days


def settings(min_support=2, **split):
    return Settings(
        events=EventsSettings(history_days=9),
        split=SplitSettings(**({"holdout_days": 1, "validation_days": 1} | split)),
        items=ItemsSettings(min_support=min_support),
    )


def test_new_items_come_in_the_order_of_first_seen_then_id(items_of):
    training = [("c", on(1)), ("b", on(2)), ("a", on(2)), ("a", on(3)), ("b", on(5)), ("c", on(4))]
    assert items_of(training) == [
        item(1, "c", 2, on(1), on(4)),
        item(2, "a", 2, on(2), on(3)),
        item(3, "b", 2, on(2), on(5)),
    ]


def test_an_item_below_the_minimum_support_is_left_out(items_of):
    training = [("a", on(1)), ("b", on(2)), ("b", on(3))]
    assert items_of(training) == [item(1, "b", 2, on(2), on(3))]


def test_known_items_keep_their_index_and_new_ones_follow(items_of):
    known = [item(1, "z", 9, on(5), on(6)), item(2, "y", 9, on(5), on(6))]
    training = [("a", on(1)), ("a", on(2)), ("y", on(7)), ("y", on(8))]
    assert items_of(training, known) == [
        item(1, "z", 0, on(5), on(6)),
        item(2, "y", 2, on(5), on(8)),
        item(3, "a", 2, on(1), on(2)),
    ]


def test_a_known_item_below_the_minimum_support_stays(items_of):
    assert items_of([("z", on(7))], [item(1, "z", 9, on(5), on(6))]) == [
        item(1, "z", 1, on(5), on(7))
    ]


def test_an_older_interaction_moves_first_seen_back(items_of):
    found = items_of([("z", on(1))], [item(1, "z", 9, on(5), on(6))])
    assert found == [item(1, "z", 1, on(1), on(6))]


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ([item(1, "b"), item(2, "a")], "item_index 1 no longer stands for item 'a'"),
        ([item(1, "a")], "item_index 2 no longer stands for item 'b'"),
        ([item(1, "a"), item(2, "b"), item(4, "c")], "3 items with indices up to 4"),
    ],
)
def test_items_that_renumber_are_refused(spark, items, found):
    known = spark.createDataFrame([item(1, "a"), item(2, "b")], struct_type(ITEMS))
    after = spark.createDataFrame(items, struct_type(ITEMS))
    with pytest.raises(ContractError, match=found):
        check_append_only(known, after, len(items))


def test_a_night_appends_to_the_newest_items_before_it(
    spark, publish_rows, publish_days, make_night, tmp_path
):
    names = ("item_index", "item_id", "support", "first_seen", "last_seen")
    for day, name in ((20, "x"), (25, "y")):
        publish_rows(ITEMS, [dict(zip(names, item(1, name), strict=True))], date(2017, 10, day))
    publish_days(
        {29: [("u", "a"), ("v", "a"), ("v", "b")], 30: [("u", "b")], 31: [("u", "b"), ("v", "c")]}
    )
    main(make_night(settings()))
    partition = get(tmp_path, ITEMS, DS)
    assert partition.read().select(["item_index", "item_id", "support"]).to_pylist() == [
        {"item_index": 1, "item_id": "y", "support": 0},
        {"item_index": 2, "item_id": "a", "support": 2},
    ]
    assert partition.manifest.notes == {"known": 1, "new": 1}


@pytest.mark.parametrize("protocol", ["temporal", "leave_one_out"])
def test_support_does_not_see_what_is_not_trained_on(spark, protocol):
    def catalogue_of(rows):
        frame = spark.createDataFrame([(*row, "", 1.0) for row in rows], SCHEMA)
        split = with_split(frame, settings(protocol=protocol).split, DS)
        empty = spark.createDataFrame([], struct_type(ITEMS))
        return catalogue(split.where("split = 'train'"), empty, 0, 1).toArrow().to_pylist()

    training = [("u", "a", on(20)), ("u", "b", on(21)), ("v", "b", on(22))]
    later = [(user, name, on(day)) for user in "uv" for name, day in (("a", 30), ("c", 31))]
    changed = [(user, name, on(day)) for user in "uv" for name, day in (("d", 30), ("b", 31))]
    assert catalogue_of(training + later) == catalogue_of(training + changed)
    assert len(catalogue_of(training + later)) == 2


def test_no_item_with_enough_support_is_a_data_error(spark, publish_days, make_night):
    publish_days({29: [("u", "a")], 30: [("u", "a")], 31: [("u", "a")]})
    with pytest.raises(DataError, match=r"no item with 2 .* items\.min_support"):
        main(make_night(settings()))


def test_inputs_are_the_window_and_the_newest_items_before(publish_rows, publish_days, tmp_path):
    names = ("item_index", "item_id", "support", "first_seen", "last_seen")
    for day in (20, 25, 31):
        publish_rows(ITEMS, [dict(zip(names, item(1, "x"), strict=True))], date(2017, 10, day))
    publish_days({day: [("u", "a")] for day in (29, 30, 31)})
    found = [(source.table, source.ds) for source in inputs(tmp_path, DS, settings())]
    assert found == [
        ("interactions", "2017-10-29"),
        ("interactions", "2017-10-30"),
        ("interactions", "2017-10-31"),
        ("items", "2017-10-25"),
    ]


def test_op15_a_night_without_interactions_is_named(tmp_path):
    with pytest.raises(MissingInputError, match="no interactions of 2017-10-31"):
        inputs(tmp_path, DS, settings())
