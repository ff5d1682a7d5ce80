import gzip
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.event_files import event_files
from jobs.interactions import main
from jobs.read_errors import decodable, decode
from schemas.errors import DataError
from schemas.interactions import INTERACTIONS
from schemas.partitions import find
from schemas.quarantine import QUARANTINE
from schemas.settings import EventsSettings

DS = date(2017, 10, 31)
ROWS = {
    "user_id": [f"u{n % 97}" for n in range(5_000)],
    "item_id": [f"i{n * n}" for n in range(5_000)],
    "event_time": ["2017-10-31T12:00:00Z"] * 5_000,
}
LINES = "".join(f"{user},{item},{time}\n" for user, item, time in zip(*ROWS.values(), strict=True))
CSV = gzip.compress(("user_id,item_id,event_time\n" + LINES).encode())


def parquet(path, compression, offset):
    """A file with a good footer, and 400 other bytes in the pages of its items."""
    pq.write_table(pa.table(ROWS), path, compression=compression)
    column = pq.read_metadata(path).row_group(0).column(1)
    start = column.dictionary_page_offset + offset
    content = bytearray(path.read_bytes())
    content[start : start + 400] = bytes(byte ^ 0x5A for byte in content[start : start + 400])
    path.write_bytes(content)


CORRUPT = {
    "header.parquet": lambda path: parquet(path, "snappy", 0),
    "snappy.parquet": lambda path: parquet(path, "snappy", 2_000),
    "zstd.parquet": lambda path: parquet(path, "zstd", 2_000),
    "plain.parquet": lambda path: parquet(path, "none", 2_000),
    "cut.csv.gz": lambda path: path.write_bytes(CSV[: len(CSV) // 2]),
    "checksum.csv.gz": lambda path: path.write_bytes(CSV[:-8] + bytes(4) + CSV[-4:]),
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "events" / "ds=2017-10-31"
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("user_id,item_id,event_time\nu,i,2017-10-31\n")
    return folder


@pytest.mark.parametrize("name", CORRUPT)
def test_op17_a_file_that_cannot_be_decoded_is_named_and_nothing_is_published(
    spark, make_night, folder, tmp_path, capfd, name
):
    CORRUPT[name](folder / name)
    with pytest.raises(DataError, match=rf"{name}, which is not what its name says") as caught:
        main(make_night())
    assert caught.value.exit_code == 65
    assert [find(tmp_path, table, DS) for table in (INTERACTIONS, QUARANTINE)] == [None, None]
    assert not list((tmp_path / "tables").rglob("*.parquet"))
    assert "Exception in task" not in capfd.readouterr().err


def test_op17_a_file_that_vanishes_is_no_error_of_the_data(spark, folder, tmp_path):
    files = event_files(tmp_path, DS, EventsSettings())
    (folder / "a.csv").unlink()
    with pytest.raises(FileNotFoundError), decodable(files):
        raise RuntimeError("[FAILED_READ_FILE.FILE_NOT_EXIST] as Spark would")


def test_op17_a_failure_to_read_files_that_can_be_decoded_stays_what_it_is(spark, folder, tmp_path):
    files = event_files(tmp_path, DS, EventsSettings())
    with pytest.raises(RuntimeError, match="as Spark would"), decodable(files):
        raise RuntimeError("[FAILED_READ_FILE.NO_HINT] as Spark would")


def test_a_failure_of_another_kind_decodes_no_file(spark, folder, tmp_path):
    CORRUPT["cut.csv.gz"](folder / "cut.csv.gz")
    files = event_files(tmp_path, DS, EventsSettings())
    with pytest.raises(RuntimeError, match="disk"), decodable(files):
        raise RuntimeError("no space left on disk")


def test_a_file_of_every_format_decodes(folder, tmp_path):
    (folder / "b.csv.gz").write_bytes(CSV)
    pq.write_table(pa.table(ROWS), folder / "c.parquet")
    files = event_files(tmp_path, DS, EventsSettings())
    assert [file.format for file in files] == ["csv", "csv", "parquet"]
    for file in files:
        decode(file)


def test_a_parquet_file_that_is_gone_is_no_error_of_the_data(folder, tmp_path):
    pq.write_table(pa.table(ROWS), folder / "c.parquet")
    file = event_files(tmp_path, DS, EventsSettings())[1]
    file.path.unlink()
    with pytest.raises(FileNotFoundError):
        decode(file)
