import gzip
import os
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.event_files import event_files
from schemas.errors import DataError, MissingInputError
from schemas.settings import EventsSettings

DS = date(2017, 10, 31)
CSV = "user_id,item_id,event_time\nu,i,2017-10-31\n"
JSON = '{"user_id": "u", "item_id": "i", "event_time": "2017-10-31"}\n'
NOON = datetime(2017, 10, 31, 12, tzinfo=UTC)
ROW = {"user_id": pa.array(["u"]), "item_id": pa.array(["i"]), "event_time": pa.array([NOON])}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "events" / "ds=2017-10-31"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def look(tmp_path):
    def look(**settings):
        return event_files(tmp_path, DS, EventsSettings(**settings))

    return look


def write_parquet(folder, **columns):
    pq.write_table(pa.table(ROW | columns), folder / "a.parquet")


def test_a_heading_that_is_no_csv_is_named(folder, look):
    (folder / "a.csv").write_text("user_id;item_id;event_time" + 40_000 * ";2017-10-31")
    with pytest.raises(DataError, match=r"a\.csv, .*field larger than field limit"):
        look()


def test_op15_a_missing_day_is_named(tmp_path):
    with pytest.raises(MissingInputError, match="ds=2017-10-31: 2017-10-31 is missing"):
        event_files(tmp_path, DS, EventsSettings())


def test_op15_a_folder_with_hidden_files_only_is_an_empty_day(folder, look):
    (folder / "_SUCCESS").touch()
    (folder / ".a.csv.crc").write_text(CSV)
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "a.csv").write_text(CSV)
    with pytest.raises(MissingInputError, match=r"no row in the 0 files .* 2017-10-31 is empty"):
        look()


def test_op15_files_without_a_row_are_an_empty_day(folder, look):
    (folder / "a.csv").write_text("user_id,item_id,event_time\n\n \t\n")
    (folder / "b.csv").touch()
    (folder / "c.jsonl").write_text("\n")
    pq.write_table(pa.table(ROW).slice(1), folder / "d.parquet")
    with pytest.raises(MissingInputError, match="no row in the 4 files"):
        look()


def test_an_empty_file_beside_one_with_rows_is_fine(folder, look):
    (folder / "a.csv").touch()
    (folder / "b.csv").write_text(CSV)
    assert [file.is_empty for file in look()] == [True, False]


def test_all_formats_are_found_in_the_order_of_their_names(folder, look):
    (folder / "b.csv").write_text(CSV)
    (folder / "c.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    (folder / "d.jsonl").write_text(JSON)
    (folder / "e.json.gz").write_bytes(gzip.compress(JSON.encode()))
    (folder / "f").mkdir()
    (folder / "f" / "g.json").write_text(JSON)
    write_parquet(folder)
    found = [(file.name, file.format, file.count_rows()) for file in look()]
    assert found == [
        ("a.parquet", "parquet", 1),
        ("b.csv", "csv", 1),
        ("c.csv.gz", "csv", 1),
        ("d.jsonl", "json", 1),
        ("e.json.gz", "json", 1),
        ("f/g.json", "json", 1),
    ]


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_link_is_read_where_it_leads_to_a_file_and_named_where_not(folder, look, target):
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.csv").write_text(CSV)
    (folder / "a.csv").symlink_to(elsewhere / "b.csv")
    assert [file.name for file in look()] == ["a.csv"]
    (folder / "more.csv").symlink_to(folder.parent / target)
    with pytest.raises(DataError, match="a link that leads to no file; expected files"):
        look()
    (folder / "more.csv").rename(folder / "_more.csv")
    assert [file.name for file in look()] == ["a.csv"]


def test_lineage_names_the_file_and_the_digest_of_its_bytes(folder, look):
    (folder / "a.csv").write_text(CSV)
    source = look()[0].as_input()
    assert (source.table, source.ds, source.run) == ("events", "2017-10-31", "a.csv")
    (folder / "a.csv").write_text(CSV + "v,i,2017-10-31\n")
    assert look()[0].as_input().digest != source.digest


def test_blank_lines_are_not_counted_and_any_line_ending_is(folder, look):
    (folder / "a.csv").write_bytes(b"\n" + CSV.encode() + b"\n  \nu,i,a\r\nu,i,b\ru,i,c")
    assert look()[0].count_rows() == 4


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.txt", b"x", r"a\.txt, whose format its name does not tell"),
        ("10:00.csv", CSV.encode(), r"10:00\.csv; expected a name without a colon"),
        ("a.parquet", b"user_id,item_id,event_time\n", r"a\.parquet, which is not what .*magic"),
        ("a.parquet", b"", r"a\.parquet, which is not what"),
        ("a.csv.gz", CSV.encode(), r"a\.csv\.gz, which is not what .*Not a gzipped file"),
        ("a.csv", gzip.compress(CSV.encode()), r"a\.csv, which is not what .*utf-8"),
        ("a.jsonl", CSV.encode(), r"a\.jsonl, which is not what .*no line holds a JSON object"),
        ("a.csv", b"user_id;item_id;event_time\n", r"a\.csv without the column user_id \(found"),
        ("a.csv", b"user_id,event_time\nu,t\n", r"a\.csv without the column item_id"),
        ("a.csv", b"user_id,item_id,event_time,item_id\n", r"a\.csv with two columns item_id"),
        ("a.jsonl", b'{"user_id": "u", "item_id": "i"}', r"a\.jsonl without the column event_time"),
    ],
    ids=lambda value: "content" if isinstance(value, bytes) else value,
)
def test_a_file_that_is_not_what_it_should_be_is_named(folder, look, name, content, found):
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=found):
        look()


def test_a_late_line_that_is_not_utf8_is_found_when_counting(folder, look):
    (folder / "a.csv").write_bytes(CSV.encode() + b"u,i,2017-10-31\n" * 10_000 + b"\xff,i,t\n")
    file = look()[0]
    with pytest.raises(DataError, match=r"a\.csv, which is not what its name says .*0xff"):
        file.count_rows()


def test_a_file_that_was_cut_off_is_found_when_counting(folder, look):
    (folder / "a.csv.gz").write_bytes(gzip.compress(CSV.encode())[:-9])
    file = look()[0]
    with pytest.raises(DataError, match=r"a\.csv\.gz, which is not what its name says .*EOF"):
        file.count_rows()


def test_a_json_line_may_omit_what_another_has(folder, look):
    (folder / "a.jsonl").write_text('not json\n{"user_id": "u", "event_time": "t"}\n' + JSON)
    assert look()[0].columns == ("user_id", "event_time", "item_id")


def test_extra_columns_are_known_by_name(folder, look):
    (folder / "a.csv").write_text("price,user_id,item_id,event_time,basket\n1,u,i,t,b\n")
    assert look()[0].extra_columns == ["basket", "price"]


def test_extra_columns_fail_where_settings_say_so(folder, look):
    write_parquet(folder, price=pa.array([1.0]))
    with pytest.raises(DataError, match=r"a\.parquet with the unknown columns price"):
        look(extra_columns="fail")


def test_an_extra_column_fails_in_whatever_line_it_comes(folder, look):
    (folder / "a.jsonl").write_text(1_000 * JSON + JSON.replace("{", '{"price": 1, '))
    assert look()[0].extra_columns == []
    with pytest.raises(DataError, match=r"a\.jsonl with the unknown columns price"):
        look(extra_columns="fail")


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("user_id", pa.array([{"id": 1}]), "struct"),
        ("user_id", pa.array([12.0]), "double"),
        ("user_id", pa.array([True]), "bool"),
        ("user_id", pa.array([b"u"]), "binary"),
        ("user_id", pa.nulls(1), "null"),
        ("item_id", pa.array([["i"]]), "list"),
        ("event_time", pa.array([1509451200]), "int64"),
        ("event_time", pa.array([1.5]), "double"),
        ("event_type", pa.array([1.5]), "double"),
        ("weight", pa.array([True]), "bool"),
        ("weight", pa.array([NOON]), "timestamp"),
    ],
)
def test_a_parquet_column_of_a_wrong_type_is_named(folder, look, column, values, found):
    write_parquet(folder, **{column: values})
    with pytest.raises(DataError, match=rf"a\.parquet with {column} of type {found}"):
        look()


@pytest.mark.parametrize(
    ("column", "values", "spark_type"),
    [
        ("user_id", pa.array([7], pa.int16()), "int"),
        ("user_id", pa.array([7], pa.uint64()), "decimal(20,0)"),
        ("item_id", pa.array(["i"], pa.large_string()), "string"),
        ("item_id", pa.array(["i"]).dictionary_encode(), "string"),
        ("event_time", pa.array([NOON], pa.timestamp("ms", "UTC")), "timestamp"),
        ("event_time", pa.array([NOON], pa.timestamp("us")), "timestamp_ntz"),
        ("event_time", pa.array([NOON], pa.timestamp("ns")), "bigint"),
        ("event_time", pa.array([DS]), "date"),
        ("event_time", pa.array(["2017-10-31"]), "string"),
        ("event_type", pa.nulls(1), None),
        ("weight", pa.array([Decimal("1.50")]), "decimal(3,2)"),
        ("weight", pa.array([1.5], pa.float32()), "float"),
    ],
)
def test_a_parquet_column_is_read_as_what_it_is(folder, look, column, values, spark_type):
    write_parquet(folder, **{column: values})
    assert dict(look()[0].types).get(column) == spark_type


def test_a_folder_that_may_not_be_read_is_an_error_and_not_left_out(folder, look, monkeypatch):
    (folder / "a.csv").write_text(CSV)
    (folder / "hour=05").mkdir()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("hour=05"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="hour=05"):
        look()


def test_a_json_line_of_brackets_in_brackets_is_left_to_quarantine(folder, look):
    (folder / "a.jsonl").write_text("[" * 100_000 + "\n" + JSON)
    (file,) = look(extra_columns="fail")
    assert not file.is_empty
