from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.event_files import event_files
from jobs.raw_rows import raw_rows
from schemas.settings import EventsSettings

DS = date(2017, 10, 31)
NOON = datetime(2017, 10, 31, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "events" / "ds=2017-10-31"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def read(tmp_path, spark):
    """Some columns of the day's rows, as sorted tuples."""

    def read(*names):
        rows = raw_rows(spark, event_files(tmp_path, DS, EventsSettings())).select(*names)
        found = [tuple(row.values()) for row in rows.toArrow().to_pylist()]
        return sorted(found, key=repr)

    return read


def test_csv_columns_are_found_by_name_in_any_order_of_any_file(folder, read):
    (folder / "a.csv").write_text("item_id,user_id,event_time\ni1,u1,2017-10-31\n")
    (folder / "b.csv").write_text('weight,"user_id", x ,event_time, item_id\n2,u2,0,t,"i,""2"""\n')
    assert read("user_id", "item_id", "event_time", "weight", "raw") == [
        ("u1", "i1", "2017-10-31", None, None),
        ("u2", 'i,"2"', "t", "2", None),
    ]


def test_a_csv_line_with_too_few_or_too_many_values_keeps_its_text(folder, read):
    lines = ["u,i,2017-10-31", "u,i", "u,i,2017-10-31,x", 'u,"i', "", " ", '""']
    (folder / "a.csv").write_text("\n".join(["user_id,item_id,event_time", *lines]))
    assert read("raw", "user_id") == [
        ('""', None),
        ('u,"i', None),
        ("u,i", None),
        ("u,i,2017-10-31,x", None),
        (None, "u"),
    ]


def test_json_lines_give_text_and_keep_what_is_no_flat_object(folder, read):
    lines = [
        '{"user_id": 7, "item_id": "i", "event_time": "t", "weight": 1.5, "x": {"y": 1}}',
        '{"user_id": null, "item_id": "i", "event_time": "t"}',
        '{"user_id": {"id": 7}, "item_id": "i", "event_time": "t"}',
        '{"user_id": 7, "item_id": ["i"], "event_time": "t"}',
        '[{"user_id": 7}]',
        "null",
        "nonsense",
        " ",
    ]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8-sig")
    assert read("raw", "user_id", "item_id", "weight") == [
        ("[" + '{"user_id": 7}' + "]", None, None, None),
        ("nonsense", None, None, None),
        ("null", None, None, None),
        (lines[3], None, None, None),
        (lines[2], None, None, None),
        (None, "7", "i", "1.5"),
        (None, None, "i", None),
    ]


def test_of_a_json_line_nothing_is_lost_and_no_id_is_rounded(folder, read):
    one = '{"user_id": "u1", "item_id": "i", "event_time": "t"}'
    large = "340282366920938463463374607431768211455"
    lines = [
        one,
        one + one,
        f"{one} {one}",
        f"{one}, {one}",
        f"{one}, null",
        f"{one} garbage",
        f"{one}] garbage",
        f"{one}], {one}",
        f"{one},",
        '{"user_id": "u", "item_id": 1e5, "event_time": "t"}',
        '{"user_id": ' + large + ', "item_id": "i", "event_time": "t"}',
        '{"user_id": "' + large + '", "item_id": ' + large[:-1] + ', "event_time": "t"}',
    ]
    (folder / "a.jsonl").write_text("\n".join(lines))
    whole = [(None, "u1", "i"), (None, large, large[:-1])]
    assert sorted(read("raw", "user_id", "item_id"), key=repr) == sorted(
        [*whole, *((line, None, None) for line in lines[1:11])], key=repr
    )


def test_parquet_text_that_is_no_utf8_is_kept_readable_and_split_into_nothing(folder, read):
    ids = pa.array([b"caf\xe9", b"caf\xc3\xa9"], pa.binary()).view(pa.string())
    columns = {"user_id": ["u", "v"], "item_id": ids, "event_time": [NOON] * 2}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    (bad, good) = sorted(read("raw", "user_id", "item_id"), key=lambda row: row[0] is None)
    assert good == (None, "v", "café")
    assert bad[1:] == (None, None) and '"item_id":"caf\ufffd"' in bad[0]


@pytest.mark.parametrize(
    "time",
    [
        pa.array(["2017-10-31T12:00:00Z"]),
        pa.array(["2017-10-31 14:00:00+02:00"]),
        pa.array([NOON], pa.timestamp("us", "Europe/Berlin")),
        pa.array([NOON], pa.timestamp("ms")),
        pa.array([NOON], pa.timestamp("us")),
        pa.array([NOON], pa.timestamp("ns")),
        pa.array([NOON], pa.timestamp("ns", "UTC")),
    ],
)
def test_any_parquet_time_is_read_in_utc(folder, read, time):
    columns = {"user_id": pa.array([1]), "item_id": pa.array([2]), "event_time": time}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    assert read("user_id", "item_id", "at") == [("1", "2", NOON)]


def test_parquet_of_hadoops_own_timestamps_is_read(folder, read):
    columns = {"user_id": ["u"], "item_id": ["i"], "event_time": pa.array([NOON])}
    pq.write_table(pa.table(columns), folder / "a.parquet", use_deprecated_int96_timestamps=True)
    assert read("at", "event_time") == [(NOON, "2017-10-31 12:00:00")]


def test_a_parquet_date_is_its_midnight(folder, read):
    columns = {"user_id": ["u"], "item_id": ["i"], "event_time": pa.array([DS])}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    assert read("at", "event_time") == [(datetime(2017, 10, 31, tzinfo=UTC), "2017-10-31")]


@pytest.mark.parametrize(
    ("weight", "amounts"),
    [
        (pa.array([3, None]), [3.0, None]),
        (pa.array([2.5, -1.0]), [-1.0, 2.5]),
        (pa.array([Decimal("1.50"), None]), [1.5, None]),
        (pa.array(["1e1", "much"]), [10.0, None]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_any_parquet_weight_is_read_as_a_number(folder, read, weight, amounts):
    columns = {"user_id": ["u", "v"], "item_id": ["i", "i"], "event_time": pa.array([NOON, NOON])}
    pq.write_table(pa.table(columns | {"weight": weight}), folder / "a.parquet")
    assert [amount for (amount,) in read("amount")] == amounts


@pytest.mark.parametrize("name", ["a b+c%20é.csv", "part[1]{x}*?.csv", "hour=01/a.csv"])
def test_the_source_is_the_name_below_the_days_folder(folder, read, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("user_id,item_id,event_time\nu,i,t\n")
    assert read("day", "source_file") == [(DS, name)]


def test_text_that_is_no_whole_time_or_number_is_not_guessed_at(folder, read):
    times = ["12:30", "2017", "1509451200", "2017-10-31T25:00", "yesterday", "2017-13-01"]
    weights = ["1f", "0x1p3", "NaN", "Infinity", "1_000", "1,5"]
    rows = [f'u,i,{time},"{weight}"' for time, weight in zip(times, weights, strict=True)]
    (folder / "a.csv").write_text("\n".join(["user_id,item_id,event_time,weight", *rows]))
    assert read("at", "amount") == [(None, None)] * 6
