"""Nights of literal days: `num` interactions each, on two items unless a test says otherwise."""

import re
import subprocess
import sys
from argparse import Namespace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.health import STAGE, main
from schemas.command import _run
from schemas.errors import HealthError, MissingInputError
from schemas.health import HEALTH
from schemas.interactions import INTERACTIONS
from schemas.items import ITEMS
from schemas.partitions import find, get
from schemas.publishing import draft, new_token, publish
from schemas.quarantine import QUARANTINE
from schemas.settings import EventsSettings, HealthSettings, Settings, SplitSettings

DS = date(2017, 10, 31)
REJECT = {"reason": "null_item", "source_file": "a.csv"}
REJECT |= dict.fromkeys(QUARANTINE.columns[2:])
MIDNIGHT = datetime(2017, 11, 1, tzinfo=UTC)
EARLIER = (1, 2, 3, 7, 14, 21)
"""Days before the night that have interactions: three of its weekday."""


@pytest.fixture
def day(publish_rows):
    """Publishes one day, `days_before` the night's."""

    def day(days_before: int, num: int, rejected: int = 0, items: str = "ab", hours: float = 1):
        end = MIDNIGHT - timedelta(days=days_before)
        rows = [
            {
                "user_id": str(n),
                "item_id": items[n % len(items)],
                "event_time": end - timedelta(hours=hours),
                "event_type": "",
                "weight": 1.0,
            }
            for n in range(num)
        ]
        ds = DS - timedelta(days=days_before)
        return publish_rows(INTERACTIONS, rows, ds, quarantine=rejected)

    return day


@pytest.fixture
def weeks(day):
    """Earlier days of ten interactions on two items each."""
    for days_before in EARLIER:
        day(days_before, 10)


def rows_of(root) -> dict[str, dict]:
    return {row["metric"]: row for row in get(root, HEALTH, DS).read().to_pylist()}


def verdicts(root) -> dict[str, str]:
    return {metric: row["verdict"] for metric, row in rows_of(root).items()}


def test_an_ordinary_day_is_within_all_limits(weeks, day, make_night, tmp_path):
    day(0, 10)
    main(make_night())
    assert set(verdicts(tmp_path).values()) == {"within"}


@pytest.mark.parametrize(
    ("broken", "metric", "found", "expected"),
    [
        ({"num": 4}, "volume", "4 (usually 10)", "at least 5 (health.min_volume)"),
        ({"num": 21}, "volume", "21 (usually 10)", "at most 20 (health.max_volume)"),
        (
            {"num": 9, "rejected": 1},
            "quarantine_rate",
            "0.1 (usually 0)",
            "at most 0.05 (health.max_quarantine_rise)",
        ),
        ({"num": 10, "hours": 9}, "freshness", "9", "at most 6 (health.max_age_hours)"),
        (
            {"num": 10, "items": "ax"},
            "drift",
            "0.5 (usually 0)",
            "at most 0.1 (health.max_drift_rise)",
        ),
    ],
)
def test_op14_a_number_beyond_its_limit_is_published_and_then_stops_the_night(
    weeks, day, make_night, tmp_path, broken, metric, found, expected
):
    day(0, **broken)
    with pytest.raises(HealthError) as caught:
        main(make_night())
    assert caught.value.found == f"{metric} {found} of {DS}"
    assert expected in caught.value.expected
    assert str(get(tmp_path, HEALTH, DS).path) in caught.value.fix
    assert [name for name, verdict in verdicts(tmp_path).items() if verdict == "beyond"] == [metric]


def test_op14_a_second_try_on_the_same_day_stops_the_night_too_and_publishes_nothing(
    weeks, day, tmp_path
):
    day(0, 1)
    arguments = Namespace(root=tmp_path, ds=DS, settings=None, force=False)
    for _ in range(2):
        with pytest.raises(HealthError):
            _run(STAGE, main, arguments)
    assert len(list(get(tmp_path, HEALTH, DS).path.parent.glob("run=*"))) == 1


def night_of(make_night, days_before: int, mode: str = "enforce"):
    settings = Settings(health=HealthSettings(mode=mode))
    return make_night(settings, DS - timedelta(days=days_before))


@pytest.fixture
def stopped(weeks, day, make_night):
    """A day that stopped its night, and an ordinary one after it."""
    day(2, 10, hours=9)
    day(0, 10)
    with pytest.raises(HealthError, match="found freshness 9 of 2017-10-29"):
        main(night_of(make_night, 2))


def test_op14_a_day_that_stopped_its_night_stops_the_next_one_by_name(stopped, make_night):
    with pytest.raises(HealthError, match="2017-10-29 in the window, stopped by its freshness; "):
        main(make_night())


def test_op14_a_day_that_was_accepted_or_delivered_again_stops_nothing(stopped, day, make_night):
    main(night_of(make_night, 2, "dry_run"))
    main(make_night())
    day(2, 10)
    main(night_of(make_night, 2))
    main(make_night())


def test_op14_a_day_without_a_night_of_its_own_is_judged_before_tonights(
    weeks, day, make_night, tmp_path
):
    day(2, 10)
    main(night_of(make_night, 2))
    day(1, 10, hours=9)
    day(0, 10)
    for _ in range(2):
        with pytest.raises(HealthError, match="2017-10-30 in the window, stopped by its fresh"):
            main(make_night())
    of_the_day = get(tmp_path, HEALTH, DS - timedelta(days=1)).manifest
    assert {source["ds"] for source in of_the_day.inputs if source["table"] == "interactions"} >= {
        "2017-10-30",
        "2017-10-29",
    }
    day(1, 10)
    main(night_of(make_night, 1))
    main(make_night())


@pytest.mark.parametrize("is_learned", [True, False])
def test_op14_a_day_that_is_delivered_again_is_judged_again(
    weeks, day, make_night, tmp_path, is_learned
):
    first = day(1, 10)
    main(night_of(make_night, 1))
    if is_learned:
        publish_items(tmp_path, first)
    day(0, 10)
    judged = get(tmp_path, HEALTH, DS - timedelta(days=1)).manifest
    day(1, 10)  # the same rows in a new run
    main(make_night())
    assert get(tmp_path, HEALTH, DS - timedelta(days=1)).manifest == judged
    day(1, 1, items="x")
    with pytest.raises(HealthError, match="2017-10-30 in the window, stopped by its drift; "):
        main(make_night())


def test_op14_a_dry_run_of_tonight_accepts_no_day_before_it(weeks, day, make_night, capsys):
    day(2, 10)
    main(night_of(make_night, 2))
    day(1, 10, hours=9)
    day(0, 10)
    main(night_of(make_night, 0, "dry_run"))
    assert "2017-10-30 was beyond its limits, dry run" in capsys.readouterr().out
    with pytest.raises(HealthError, match="2017-10-30 in the window, stopped by its freshness"):
        main(make_night())
    main(night_of(make_night, 1, "dry_run"))
    main(make_night())


def test_op14_days_that_the_catalogue_has_learned_are_not_judged_after_the_fact(
    weeks, day, make_night, tmp_path
):
    """The first night judges none of the days before it; then an older one is back-filled."""
    publish_items(tmp_path, day(3, 10, hours=9))
    main(night_of(make_night, 7))
    day(0, 10)
    main(make_night())
    assert find(tmp_path, HEALTH, DS - timedelta(days=3)) is None


def publish_items(root, learned):
    """Yesterday's catalogue, which was made of a day's interactions."""
    run = draft(root, ITEMS, DS - timedelta(days=1), new_token())
    item = {"item_index": 1, "item_id": "a", "support": 1}
    item |= dict.fromkeys(("first_seen", "last_seen"), MIDNIGHT)
    run.write(pa.Table.from_pylist([item], schema=ITEMS.schema))
    publish(run, DS - timedelta(days=1), inputs=[learned.as_input()])


def last_days(num_days):
    split = SplitSettings(protocol="leave_one_out")  # any length of the window has room for it
    return Settings(events=EventsSettings(history_days=num_days), split=split)


def test_op14_a_day_that_left_the_window_stops_nothing(stopped, make_night, day):
    main(make_night(last_days(2)))
    with pytest.raises(HealthError, match="2017-10-29 in the window"):
        main(make_night(last_days(3)))


def test_a_dry_run_says_which_day_before_it_stopped_its_night(stopped, make_night, capsys):
    main(night_of(make_night, 0, "dry_run"))
    assert "2017-10-29 was beyond its limits, dry run" in capsys.readouterr().out


def test_every_number_beyond_its_limit_is_named(weeks, day, make_night):
    day(0, 1, rejected=1, items="x", hours=20)
    with pytest.raises(HealthError, match=r"volume 1 .*, quarantine_rate .*, freshness .*, drift"):
        main(make_night())


def test_a_dry_run_records_and_says_what_would_have_stopped_the_night(
    weeks, day, make_night, tmp_path, capsys
):
    day(0, 1)
    main(make_night(Settings(health=HealthSettings(mode="dry_run"))))
    assert rows_of(tmp_path)["volume"]["verdict"] == "beyond"
    assert "volume 1 (usually 10) is beyond its limit, dry run" in capsys.readouterr().out


def test_op14_volume_is_judged_in_fewer_weeks_than_other_numbers_need_days(
    weeks, day, make_night, tmp_path
):
    day(0, 1)
    with pytest.raises(HealthError, match=r"volume 1 \(usually 10\)"):
        main(make_night(Settings(health=HealthSettings(weeks=2, min_days=3))))


def test_volume_is_compared_with_the_same_weekday_only(day, make_night, tmp_path):
    for days_before in EARLIER:
        day(days_before, 4 if days_before % 7 == 0 else 40)
    day(0, 4)
    main(make_night())
    assert rows_of(tmp_path)["volume"] == {
        "metric": "volume",
        "value": 4.0,
        "usual": 4.0,
        "at_least": 2.0,
        "at_most": 8.0,
        "verdict": "within",
        "num_days": 3,
    }


def test_one_bad_day_among_the_weeks_does_not_change_what_is_usual(weeks, day, make_night):
    day(7, 1, rejected=9, items="x")
    day(0, 4)
    with pytest.raises(HealthError, match=r"volume 4 \(usually 10\)"):
        main(make_night())


def test_op11_a_first_night_is_recorded_and_not_judged_but_for_freshness(day, make_night, tmp_path):
    day(0, 1)
    main(make_night())
    assert verdicts(tmp_path) == {
        "volume": "not_judged",
        "quarantine_rate": "not_judged",
        "freshness": "within",
        "drift": "not_judged",
    }


def test_a_verdict_needs_min_days_comparable_days(day, make_night, tmp_path):
    for days_before in (1, 2, 7, 14):
        day(days_before, 10)
    day(0, 1, items="x")
    with pytest.raises(HealthError, match="found drift 1"):
        main(make_night())
    assert verdicts(tmp_path)["volume"] == "not_judged"
    assert rows_of(tmp_path)["volume"]["num_days"] == 2


def test_days_before_the_weeks_are_not_compared_with(day, make_night, tmp_path):
    for days_before in (29, 35, 42):
        day(days_before, 10)
    day(0, 1)
    main(make_night())
    assert rows_of(tmp_path)["volume"]["num_days"] == 0


def test_lineage_names_every_day_compared_with(weeks, day, tmp_path):
    day(0, 10)
    inputs = STAGE.inputs(tmp_path, DS, Settings())
    days = {str(DS - timedelta(days=n)) for n in (0, *EARLIER)}
    assert {(item.table, item.ds) for item in inputs} == {("interactions", d) for d in days}


def test_quarantine_of_a_delivery_that_was_refused_does_not_count(
    weeks, day, make_night, publish_rows, tmp_path
):
    day(0, 10, rejected=1)
    publish_rows(QUARANTINE, [REJECT] * 90, DS)
    main(make_night(Settings(health=HealthSettings(max_quarantine_rise=1))))
    assert rows_of(tmp_path)["quarantine_rate"]["value"] == 1 / 11


def test_op15_a_night_without_interactions_is_named(weeks, tmp_path):
    with pytest.raises(MissingInputError, match=f"no interactions of {DS}"):
        STAGE.inputs(tmp_path, DS, Settings())


def test_the_runbooks_command_prints_the_numbers_of_the_folder_that_the_error_names(
    weeks, day, make_night
):
    day(0, 10, hours=9)
    with pytest.raises(HealthError) as caught:
        main(make_night())
    folder = re.search(r"all numbers are in (.*)", str(caught.value))[1]
    runbook = (Path(__file__).parent.parent.parent / "docs" / "runbook.md").read_text()
    code = re.search(r"## HealthError.*?`python -c \"(.*?)\"`", runbook, re.DOTALL)[1]
    command = [sys.executable, "-c", code.replace("FOLDER", folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "'metric': 'freshness', 'value': 9.0" in done.stdout
