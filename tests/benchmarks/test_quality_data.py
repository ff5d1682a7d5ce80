from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.quality_data import (
    DATA_SETS,
    DAY,
    frequent,
    ordered_events,
    read_beauty,
    read_diginetica,
    read_music30,
    write_settings,
)


@pytest.mark.parametrize("name", DATA_SETS)
def test_settings_written_are_settings_read(name, tmp_path):
    data = DATA_SETS[name]
    write_settings(data, tmp_path)
    settings = data.load_settings(tmp_path).model_dump()
    for section, values in data.settings.items():
        assert {key: settings[section][key] for key in values} == values


def test_actions_of_one_user_are_a_second_apart():
    events = ordered_events({"ann": ["x", "y"], "bob": ["y"]}).to_pylist()
    assert [(e["user_id"], e["item_id"], e["event_time"].second) for e in events] == [
        ("ann", "x", 0),
        ("ann", "y", 1),
        ("bob", "y", 0),
    ]
    assert {e["event_time"].date() for e in events} == {DAY}


def test_rare_items_go_and_users_with_nothing_else():
    assert frequent({"a": ["x", "y", "x"], "b": ["y"], "c": ["z"]}, 2) == {
        "a": ["x", "y", "x"],
        "b": ["y"],
    }


@pytest.mark.parametrize(
    ("read", "name", "text", "expected"),
    [
        (read_beauty, "beauty_s3rec.txt", "7 5 6\n8 5\n", [("7", "5"), ("7", "6"), ("8", "5")]),
        (
            read_diginetica,
            "diginetica_desorec.csv",
            "0,0,3\n0,3,4\n",
            [("0", "3"), ("1", "3"), ("1", "4")],
        ),
    ],
)
def test_files_of_histories_become_events(read, name, text, expected, tmp_path):
    (tmp_path / name).write_text(text)
    events = read(tmp_path, tmp_path).to_pylist()
    assert [(e["user_id"], e["item_id"]) for e in events] == expected


def test_plays_keep_their_times(tmp_path):
    plays = {"user_id": [4], "song_id": [16], "ts": [1_419_984_000]}
    pq.write_table(pa.table(plays), tmp_path / "music30_sessions.parquet")
    (event,) = read_music30(tmp_path, tmp_path).to_pylist()
    assert event["event_time"].date() == date(2014, 12, 31)
    assert (event["user_id"], event["item_id"]) == ("4", "16")
