from datetime import date

import pyarrow.parquet as pq
import pytest

from demo.load_events import CATALOGUE_FILE, load_events
from jobs import interactions
from schemas.errors import MissingInputError
from schemas.interactions import INTERACTIONS
from schemas.partitions import get
from schemas.settings import EventsSettings, Settings, SplitSettings

DS = date(2017, 10, 31)
TWO_DAYS = Settings(
    events=EventsSettings(history_days=2), split=SplitSettings(protocol="leave_one_out")
)


@pytest.fixture
def loaded(tmp_path):
    return load_events(tmp_path, TWO_DAYS, [DS])


def test_each_day_the_nights_look_back_on_has_its_purchases(tmp_path, loaded):
    days = {path.name for path in (tmp_path / "events").iterdir()}
    assert days == {"ds=2017-10-30", "ds=2017-10-31"}
    rows = pq.read_table(tmp_path / "events/ds=2017-10-31/events.parquet")
    assert rows.column_names == ["user_id", "item_id", "event_time"]
    assert {time.date() for time in rows["event_time"].to_pylist()} == {DS}
    assert loaded.num_days == 2


def test_loading_again_writes_nothing(tmp_path, loaded):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == loaded.num_files_written == 4
    assert load_events(tmp_path, TWO_DAYS, [DS]).num_files_written == 0
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_op13_the_bad_rows_of_a_night_end_in_quarantine_each_for_its_reason(
    tmp_path, loaded, make_night, spark
):
    interactions.main(make_night(TWO_DAYS))
    notes = get(tmp_path, INTERACTIONS, DS).manifest.notes
    assert notes["reasons"] == {
        "bad_weight": 1,
        "null_user": 1,
        "outside_day": 1,
        "unparsable_time": 1,
    }
    assert notes["duplicates"] == 1
    assert (
        notes["events"]
        == loaded.num_events
        - pq.read_metadata(tmp_path / "events/ds=2017-10-30/events.parquet").num_rows
    )


def test_products_have_names_to_read(tmp_path, loaded):
    catalogue = pq.read_table(tmp_path / CATALOGUE_FILE)
    assert not any(column.null_count for column in catalogue.columns)
    names = dict(zip(catalogue["item_id"].to_pylist(), catalogue["name"].to_pylist(), strict=True))
    assert names["25671"] == "Ice - crushed/cubed, 22 lb (National)"
    assert names["26081"] == "Miscellaneous (National)"
    bought = pq.read_table(tmp_path / "events/ds=2017-10-31/events.parquet")["item_id"]
    assert set(bought.to_pylist()) <= names.keys()
    nameless = {item for item, name in names.items() if "without a name" in name}
    assert nameless == {"5978648", "5978656"}
    assert names["5978656"] == "Product 5978656, without a name"


def test_a_date_without_purchases_is_named(tmp_path):
    with pytest.raises(MissingInputError, match="no purchase from 2018-06-29 to 2018-06-30"):
        load_events(tmp_path, TWO_DAYS, [date(2018, 6, 30)])


def test_days_outside_the_year_have_no_file(tmp_path):
    assert load_events(tmp_path, TWO_DAYS, [date(2017, 1, 1)]).num_days == 1
    assert [day.name for day in (tmp_path / "events").iterdir()] == ["ds=2017-01-01"]
    with pytest.raises(MissingInputError, match="no purchase on 2018-01-02"):
        load_events(tmp_path / "other", TWO_DAYS, [date(2017, 12, 31), date(2018, 1, 2)])
    assert not (tmp_path / "other").exists()
