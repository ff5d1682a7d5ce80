import shutil
import time
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.contract import Contract, optional, required
from schemas.errors import ContractError, CorruptPartitionError, MissingInputError, StaleWriterError
from schemas.partitions import find, get, latest_before, published_dates, window
from schemas.publishing import draft, new_token, publish

DS = date(2017, 10, 31)
FRUIT = Contract(
    table="fruit",
    version=1,
    key=("name", "size"),
    stage="tests",
    about="One fruit.",
    fields=[
        required("name", pa.string(), "what", one_of=("apple", "pear", "plum")),
        required("size", pa.int32(), "cm", at_least=1, at_most=50),
        optional("seeds", pa.list_(pa.float64()), "weights"),
    ],
)
PLUM = {"name": "plum", "size": 3, "seeds": None}
PEAR = {"name": "pear", "size": 9, "seeds": [0.5, 0.25]}
APPLE = {"name": "apple", "size": 7, "seeds": []}


def make(root, rows, files=1, ds=DS, token=None):
    run = draft(root, FRUIT, ds, token or new_token())
    table = pa.Table.from_pylist(rows, schema=FRUIT.schema)
    size = -(-len(rows) // files) or 1
    for n in range(files):
        pq.write_table(table.slice(n * size, size), run.path / f"part-{n:05d}.parquet")
    return run


def test_a_published_table_reads_back_in_key_order(publish_rows):
    partition = publish_rows(FRUIT, [PLUM, PEAR, APPLE])
    assert partition.read().to_pylist() == [APPLE, PEAR, PLUM]


def test_op02_the_digest_does_not_depend_on_files_or_row_groups(tmp_path):
    one = publish(make(tmp_path / "one", [APPLE, PEAR, PLUM]), DS)
    three = publish(make(tmp_path / "three", [APPLE, PEAR, PLUM], files=3), DS)
    assert len(three.files) == 3
    assert one.manifest.content_digest == three.manifest.content_digest


def test_the_digest_depends_on_every_value(tmp_path):
    digests = {
        publish(make(tmp_path / str(n), [row]), DS).manifest.content_digest
        for n, row in enumerate([PEAR, PEAR | {"size": 10}, PEAR | {"seeds": [0.5]}])
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([APPLE, APPLE], "followed by"),
        ([PEAR, APPLE], "followed by"),
        ([APPLE | {"size": 0}], "least value of 0"),
        ([APPLE | {"size": 51}], "greatest value of 51"),
        ([APPLE | {"name": "leek"}], "leek"),
        ([APPLE | {"seeds": [float("nan")]}], "NaN in fruit.seeds"),
        ([APPLE | {"seeds": [None]}], "1 nulls inside"),
    ],
)
def test_rows_that_break_the_contract_are_not_published(tmp_path, rows, found):
    with pytest.raises(ContractError, match=found):
        publish(make(tmp_path, rows), DS)
    assert find(tmp_path, FRUIT, DS) is None


def test_op15_nothing_is_never_published(tmp_path):
    with pytest.raises(ContractError, match="no row for fruit"):
        publish(make(tmp_path, []), DS)


def test_a_null_in_a_required_column_is_not_published(tmp_path):
    run = draft(tmp_path, FRUIT, DS, new_token())
    nullable = pa.schema([pa.field(f.name, f.type) for f in FRUIT.schema])
    rows = pa.Table.from_pylist([APPLE | {"size": None}], schema=nullable)
    pq.write_table(rows, run.path / "part-00000.parquet")
    with pytest.raises(ContractError, match=r"1 nulls in fruit\.size"):
        publish(run, DS)


@pytest.mark.parametrize("drop", [["seeds"], ["size"]])
def test_a_missing_column_is_not_published(tmp_path, drop):
    run = make(tmp_path, [APPLE])
    file = run.path / "part-00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(drop), file)
    with pytest.raises(ContractError, match="expected name string, size int32, seeds list<double>"):
        publish(run, DS)


def test_order_is_checked_across_files_and_batches(tmp_path):
    rows = [{"name": "apple", "size": 1, "seeds": None}, {"name": "apple", "size": 1, "seeds": []}]
    with pytest.raises(ContractError, match="followed by"):
        publish(make(tmp_path, rows, files=2), DS)


def test_op08_a_missing_an_extra_and_a_changed_file_are_named(tmp_path):
    partition = publish(make(tmp_path, [APPLE, PEAR], files=2), DS)
    part = partition.files[1]
    good = part.read_bytes()

    part.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    with pytest.raises(CorruptPartitionError, match=r"part-00001\.parquet changed"):
        get(tmp_path, FRUIT, DS)
    part.unlink()
    with pytest.raises(CorruptPartitionError, match=r"part-00001\.parquet missing"):
        get(tmp_path, FRUIT, DS)
    part.write_bytes(good)
    (partition.path / "part-00002.parquet").write_bytes(good)
    with pytest.raises(CorruptPartitionError, match=r"part-00002\.parquet, which is not in"):
        get(tmp_path, FRUIT, DS)


NO_RUN = '{"run": "mine", "manifest_sha256": "0"}'


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": "1"}', NO_RUN])
def test_op08_a_damaged_pointer_is_named_and_mended_by_publishing(tmp_path, text):
    pointer = publish(make(tmp_path, [APPLE]), DS).path.parent / "CURRENT"
    pointer.write_text(text)
    with pytest.raises(CorruptPartitionError, match="CURRENT damaged"):
        get(tmp_path, FRUIT, DS)
    publish(make(tmp_path, [PEAR]), DS)
    assert get(tmp_path, FRUIT, DS).read().to_pylist() == [PEAR]


def test_op08_a_changed_manifest_is_found(tmp_path):
    partition = publish(make(tmp_path, [APPLE]), DS)
    manifest = partition.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows": 1', '"rows": 2'))
    with pytest.raises(CorruptPartitionError, match=r"manifest\.json changed"):
        get(tmp_path, FRUIT, DS)


def test_op18_a_writer_older_than_the_pointer_is_refused(tmp_path):
    slow = make(tmp_path, [APPLE], token=new_token())
    quick = publish(make(tmp_path, [PEAR], token=new_token()), DS)
    with pytest.raises(StaleWriterError, match=quick.manifest.run):
        publish(slow, DS)
    assert get(tmp_path, FRUIT, DS).read().to_pylist() == [PEAR]


def test_a_date_that_was_never_published_is_missing(tmp_path):
    with pytest.raises(MissingInputError, match="no fruit of 2017-10-31"):
        get(tmp_path, FRUIT, DS)


def test_a_window_holds_the_published_days_that_end_at_the_date(tmp_path):
    for day in (27, 29, 30, 31):
        publish(make(tmp_path, [APPLE], ds=date(2017, 10, day)), date(2017, 10, day))
    days = [p.manifest.ds for p in window(tmp_path, FRUIT, date(2017, 10, 30), 3)]
    assert days == ["2017-10-29", "2017-10-30"]
    assert latest_before(tmp_path, FRUIT, DS).manifest.ds == "2017-10-30"


def test_somebodys_copy_of_a_partition_is_no_partition(tmp_path):
    published = publish(make(tmp_path, [PLUM]), DS)
    folder = published.path.parent
    shutil.copytree(folder, folder.with_name(f"{folder.name}.bak"))
    shutil.copytree(folder, folder.with_name("ds=20171030"))
    assert published_dates(tmp_path, FRUIT) == [DS]


def test_a_token_is_greater_than_the_one_it_follows_whatever_the_clock_says():
    tomorrow = f"{time.time_ns() + 86_400 * 10**9:020d}-9"
    assert new_token(after=tomorrow) > tomorrow
    assert new_token(after="00000000000000000001-9") < tomorrow
