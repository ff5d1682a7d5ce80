import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import interactions
from jobs.interactions import check_sum, deduplicate, inputs, judge, main, reject, tally
from schemas.errors import DataError, MissingInputError
from schemas.interactions import INTERACTIONS
from schemas.partitions import find, get, published_dates
from schemas.quarantine import QUARANTINE
from schemas.settings import EventsSettings, Settings, SparkSettings, SplitSettings
from tests.conftest import QUICK_SPARK

DS = date(2017, 10, 31)
NOON = datetime(2017, 10, 31, 12, tzinfo=UTC)
HEADING = "user_id,item_id,event_time,event_type,weight\n"
GOOD = "u1,i1,2017-10-31T12:00:00Z,buy,2\n"
RAW = {
    "day": DS,
    "source_file": "a.csv",
    "user_id": "u",
    "item_id": "i",
    "event_time": "as found",
    "event_type": "buy",
    "weight": "1",
    "at": NOON,
    "amount": 1.0,
    "raw": None,
}
RAW_SCHEMA = (
    "day date, source_file string, user_id string, item_id string, event_time string, "
    "event_type string, weight string, at timestamp, amount double, raw string"
)


@pytest.fixture
def judged(spark):
    def judged(*changes):
        rows = [tuple((RAW | change).values()) for change in changes]
        return judge(spark.createDataFrame(rows, RAW_SCHEMA))

    return judged


@pytest.fixture
def deliver(tmp_path):
    """Writes a file of events of a day."""

    def deliver(lines, name="a.csv", ds=DS):
        folder = tmp_path / "events" / f"ds={ds}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(lines)
        return folder / name

    return deliver


def settings(spark=None, **events):
    split = SplitSettings(protocol="leave_one_out")  # any length of the window has room for it
    events, spark = EventsSettings(**events), SparkSettings(**(spark or {}))
    return Settings(events=events, spark=spark, split=split)


def test_each_rejected_row_has_the_first_reason_that_applies(judged):
    cases = [
        ({}, None),
        ({"weight": None, "amount": None}, None),
        ({"weight": " ", "amount": None}, None),
        ({"weight": "0", "amount": 0.0}, None),
        ({"event_type": None}, None),
        ({"raw": "u;i", "user_id": None}, "malformed_row"),
        ({"user_id": None, "item_id": None}, "null_user"),
        ({"user_id": " \t"}, "null_user"),
        ({"item_id": "", "at": None}, "null_item"),
        ({"at": None, "amount": -1.0}, "unparsable_time"),
        ({"at": datetime(2017, 10, 30, 23, 59, 59, 999999, UTC)}, "outside_day"),
        ({"at": datetime(2017, 11, 1, tzinfo=UTC), "amount": -1.0}, "outside_day"),
        ({"at": datetime(2017, 10, 31, 23, 59, 59, 999999, UTC)}, None),
        ({"amount": -0.5}, "bad_weight"),
        ({"amount": float("nan")}, "bad_weight"),
        ({"amount": float("inf")}, "bad_weight"),
        ({"weight": "much", "amount": None}, "bad_weight"),
    ]
    rows = judged(*(change for change, _ in cases)).coalesce(1).collect()
    assert [row.reason for row in rows] == [reason for _, reason in cases]


def test_of_duplicates_the_greatest_weight_stays(judged):
    rows = deduplicate(
        judged(
            {"amount": 1.0, "weight": "1"},
            {"amount": 3.0, "weight": "3"},
            {"amount": 2.0, "weight": "2"},
            {"event_type": "view"},
        )
    ).collect()
    found = {(row.event_type, row.weight, row.copies) for row in rows}
    assert found == {("buy", 3.0, 3), ("view", 1.0, 1)}


def test_what_is_absent_is_one_for_a_weight_and_empty_for_a_type(judged):
    row = deduplicate(judged({"weight": None, "amount": None, "event_type": None})).first()
    assert (row.weight, row.event_type) == (1.0, "")


def test_zero_has_no_sign(judged):
    row = deduplicate(judged({"amount": -0.0, "weight": "-0"})).first()
    assert str(row.weight) == "0.0"


def test_a_tally_counts_duplicates_reasons_and_examples_by_day(judged):
    later = date(2017, 11, 1)
    rows = judged(
        {},
        {},
        {"user_id": None},
        {"user_id": None, "source_file": "b.csv"},
        {"day": later, "raw": "nonsense"},
    )
    tallies = tally(deduplicate(rows), reject(rows))
    assert tallies[DS].duplicates == 1
    assert tallies[DS].reasons == {"null_user": 2}
    assert json.loads(tallies[DS].examples["null_user"])["source_file"] == "a.csv"
    assert tallies[later].reasons == {"malformed_row": 1}


def test_op13_every_raw_row_of_every_format_is_accounted_for(spark, make_night, deliver, tmp_path):
    deliver(HEADING + GOOD * 2 + ",i1,2017-10-31,buy,1\nu1,i1,soon,buy,1\nu2\n")
    deliver('{"user_id": 3, "item_id": "i", "event_time": "2017-10-31", "price": 1}\n', "b.jsonl")
    parquet = {"user_id": [4, 5], "item_id": ["i", "i"], "event_time": [NOON, datetime(2018, 1, 1)]}
    pq.write_table(pa.table(parquet), deliver("", "c.parquet"))
    main(make_night(settings(max_quarantine_share=0.6)))

    interactions, quarantine = get(tmp_path, INTERACTIONS, DS), get(tmp_path, QUARANTINE, DS)
    reasons = {"malformed_row": 1, "null_user": 1, "outside_day": 1, "unparsable_time": 1}
    assert interactions.manifest.notes == {
        "events": 8,
        "quarantine": 4,
        "duplicates": 1,
        "reasons": reasons,
        "extra_columns": ["price"],
        "files": 3,
    }
    assert interactions.read(["user_id"])["user_id"].to_pylist() == ["3", "4", "u1"]
    assert Counter(quarantine.read()["reason"].to_pylist()) == reasons
    assert [(i["table"], i["run"]) for i in interactions.manifest.inputs] == [
        ("events", "a.csv"),
        ("events", "b.jsonl"),
        ("events", "c.parquet"),
        ("quarantine", quarantine.manifest.run),
    ]


def test_op13_rows_that_are_lost_on_the_way_are_not_published(make_night):
    draft = make_night().draft(INTERACTIONS)
    draft.write(INTERACTIONS.schema.empty_table())
    draft.notes |= {"events": 10, "quarantine": 3, "duplicates": 6}
    with pytest.raises(DataError, match=r"10 raw rows of 2017-10-31 but 0 interactions \+ 3"):
        check_sum(DS, draft)


def test_op02_a_day_that_arrives_twice_is_the_same_day(spark, make_night, deliver, tmp_path):
    deliver(HEADING + GOOD + "u2,i1,2017-10-31,view,1\n")
    main(make_night())
    once = get(tmp_path, INTERACTIONS, DS).manifest
    deliver(HEADING + GOOD + "u2,i1,2017-10-31,view,1\n", "again.csv")
    main(make_night())
    twice = get(tmp_path, INTERACTIONS, DS).manifest
    assert (once.notes["duplicates"], twice.notes["duplicates"]) == (0, 2)
    assert twice.content_digest == once.content_digest


def test_op20_digests_do_not_depend_on_partitions_or_files(spark, make_night, deliver, tmp_path):
    deliver(HEADING + "".join(f"u{n},i{n % 7},2017-10-31,buy,{n}\nu{n}\n" for n in range(99)))
    digests = set()
    for conf in ({"shuffle_partitions": 1}, {"shuffle_partitions": 7, "files_per_table": 3}):
        main(make_night(settings(spark=conf, max_quarantine_share=0.9)))
        found = [get(tmp_path, contract, DS) for contract in (INTERACTIONS, QUARANTINE)]
        digests.add(tuple(partition.manifest.content_digest for partition in found))
    assert len(found[0].files) == 3
    assert len(digests) == 1


def test_too_much_quarantine_publishes_it_but_no_interactions(make_night, deliver, tmp_path, spark):
    deliver(HEADING + GOOD * 2 + ",i1,2017-10-31,buy,1\nu1,i1,soon,buy,1\nu2,i1,later,buy,1\n")
    message = (
        r"3 of 5 events of 2017-10-31 \(60.0%\) in quarantine, 2 for unparsable_time such as "
        r".*soon.*; expected at most 20.0% \(events.max_quarantine_share\)"
    )
    with pytest.raises(DataError, match=message):
        main(make_night())
    assert get(tmp_path, QUARANTINE, DS).manifest.rows == 3
    assert find(tmp_path, INTERACTIONS, DS) is None


def test_op15_a_day_of_rejected_rows_only_is_an_error_at_any_limit(
    make_night, deliver, tmp_path, spark
):
    deliver(HEADING + "u1,i1,soon,buy,1\n")
    with pytest.raises(DataError, match="1 of 1 events"):
        main(make_night(settings(max_quarantine_share=1.0)))
    assert find(tmp_path, INTERACTIONS, DS) is None


def test_a_first_night_publishes_the_days_of_its_window_oldest_first(
    make_night, deliver, tmp_path, spark, capsys
):
    for day in (26, 28, 29, 31):
        deliver(HEADING + f"u,i,2017-10-{day},buy,1\n", ds=date(2017, 10, day))
    main(make_night(settings(history_days=4)))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"{table} 2017-10-{day}" for day in (28, 29, 31) for table in ("quarantine", "interactions")
    ]
    assert published_dates(tmp_path, INTERACTIONS) == [date(2017, 10, day) for day in (28, 29, 31)]
    assert not list((tmp_path / "tables" / "interactions" / "v1").glob("_staging*"))


def test_a_day_published_before_is_not_published_again(make_night, deliver, tmp_path, spark):
    early = date(2017, 10, 30)
    deliver(HEADING + "u,i,2017-10-30,buy,1\n", ds=early)
    main(make_night(ds=early))
    before = get(tmp_path, INTERACTIONS, early).manifest
    deliver(HEADING + GOOD)
    main(make_night())
    assert get(tmp_path, INTERACTIONS, early).manifest == before


def test_op15_what_is_delivered_late_is_told_by_name_and_taken_in_on_demand(
    make_night, deliver, tmp_path, spark, capsys
):
    another, old, rows, moved = days = [date(2017, 10, n) for n in (27, 28, 29, 30)]
    files = {ds: deliver(f"{HEADING}u,i,{ds},buy,1\n", ds=ds) for ds in days}
    deliver(HEADING + GOOD)
    for _ in range(2):
        main(make_night())
    assert "changed after" not in capsys.readouterr().out
    more = {ds: f"{file.read_text()}v,i,{ds},buy,1\n" for ds, file in files.items()}
    for ds in (another, old):
        files[ds].with_name("late.csv").write_text(f"{HEADING}v,i,{ds},buy,1\n")
    os.utime(files[old].with_name("late.csv"), (0, 0))
    files[rows].write_text(more[rows])
    corrected = tmp_path / "corrected.csv"
    corrected.write_text(more[moved])
    os.utime(corrected, (0, 0))
    corrected.rename(files[moved])
    main(make_night())
    told = capsys.readouterr().out
    for ds in days:
        assert f"events of {ds} changed after they were published; to take them in: " in told
        assert f"python -m jobs.interactions --ds {ds}\n" in told
        main(make_night(ds=ds))
        assert get(tmp_path, INTERACTIONS, ds).manifest.rows == 2
    capsys.readouterr()
    main(make_night())
    assert "changed after" not in capsys.readouterr().out


@pytest.mark.parametrize("damaged", ["CURRENT", "manifest.json"])
def test_a_damaged_day_that_is_not_read_is_left_to_those_who_read_it(
    make_night, deliver, tmp_path, spark, damaged
):
    early = date(2017, 10, 30)
    deliver(HEADING + "u,i,2017-10-30,buy,1\n", ds=early)
    main(make_night(ds=early))
    run_folder = get(tmp_path, INTERACTIONS, early).path
    folder = run_folder.parent if damaged == "CURRENT" else run_folder
    (folder / damaged).write_text("{")
    deliver(HEADING + GOOD)
    main(make_night())
    assert get(tmp_path, INTERACTIONS, DS).manifest.rows == 1


def test_op15_an_empty_day_to_catch_up_on_fails_by_name(make_night, deliver, tmp_path):
    deliver(HEADING, ds=date(2017, 10, 30))
    deliver(HEADING + GOOD)
    with pytest.raises(MissingInputError, match="2017-10-30 is empty"):
        main(make_night())
    assert published_dates(tmp_path, INTERACTIONS) == []


def test_op15_an_empty_day_to_catch_up_on_is_passed_over_where_days_may_be_missing(
    make_night, deliver, tmp_path, spark, capsys
):
    deliver(HEADING, ds=date(2017, 10, 30))
    deliver(HEADING + GOOD)
    main(make_night(settings(missing_day="skip")))
    assert "passed over no row in the 1 files of" in capsys.readouterr().out
    assert published_dates(tmp_path, INTERACTIONS) == [DS]


def test_op15_the_nights_own_day_is_never_passed_over(make_night, deliver):
    deliver(HEADING)
    with pytest.raises(MissingInputError, match="2017-10-31 is empty"):
        main(make_night(settings(missing_day="skip")))


def test_a_bad_day_to_catch_up_on_stops_the_night_by_name(make_night, deliver, tmp_path, spark):
    for day in (29, 31):
        deliver(HEADING + f"u,i,2017-10-{day},buy,1\n", ds=date(2017, 10, day))
    deliver(HEADING + "u,i,2017-10-31,buy,1\n", ds=date(2017, 10, 30))
    with pytest.raises(DataError, match=r"1 of 1 events of 2017-10-30 .* for outside_day"):
        main(make_night())
    assert published_dates(tmp_path, INTERACTIONS) == [date(2017, 10, 29)]


def test_ignored_columns_are_printed(make_night, deliver, spark, capsys):
    deliver("price,user_id,item_id,event_time\n1,u,i,2017-10-31\n")
    main(make_night())
    assert capsys.readouterr().out.startswith("jobs.interactions: ignored the columns price\n")


def test_inputs_are_the_files_of_the_night(deliver, tmp_path):
    deliver(HEADING + GOOD, "b.csv")
    deliver(HEADING + GOOD)
    deliver(HEADING + GOOD, ds=date(2017, 10, 30))
    assert [source.run for source in inputs(tmp_path, DS, Settings())] == ["a.csv", "b.csv"]


def command(root):
    arguments = ["-m", "jobs.interactions", "--ds", "2017-10-31", "--root", str(root)]
    project = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=os.environ | QUICK_SPARK,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("now", [HEADING + GOOD.replace("u1", "u2"), None])
def test_op23_a_file_that_changes_while_it_is_read_is_an_error_and_publishes_nothing(
    make_night, deliver, tmp_path, spark, monkeypatch, now
):
    file = deliver(HEADING + GOOD)

    def changing(*rows):
        file.write_text(now) if now else file.unlink()
        return tally(*rows)

    monkeypatch.setattr(interactions, "tally", changing)
    with pytest.raises(DataError, match=r"a\.csv changed while it was read; expected files that"):
        main(make_night())
    assert find(tmp_path, INTERACTIONS, DS) is find(tmp_path, QUARANTINE, DS) is None


def test_op17_the_command_line_ends_with_66_on_a_missing_day(tmp_path):
    done = command(tmp_path)
    assert done.returncode == 66
    assert done.stderr.startswith("jobs.interactions: MissingInputError: found no folder")
    assert done.stderr.count("\n") == 1


def test_op17_the_command_line_ends_with_65_on_a_bad_heading(tmp_path, deliver):
    deliver("user,item,time\nu,i,t\n")
    done = command(tmp_path)
    assert done.returncode == 65
    assert "a.csv without the column user_id (found the columns user, item" in done.stderr
    assert done.stderr.count("\n") == 1


def test_op17_spark_adds_no_line_to_the_one_of_an_error(tmp_path, deliver):
    deliver(HEADING + "u1,i1,soon,buy,1\n")
    done = command(tmp_path)
    assert done.returncode == 65
    assert done.stderr.startswith("jobs.interactions: DataError: found 1 of 1 events")
    assert done.stderr.count("\n") == 1
