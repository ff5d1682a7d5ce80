"""The alarm's real DAG, its program a toy that ends as each test wants."""

import json
from datetime import UTC, datetime

import pytest

STALE = "trainer.freshness: StaleChampionError: found old; expected new; fix: nights"


@pytest.fixture
def check(worker):
    """Runs the alarm once; `program` is the toy."""

    def check(logical_date: str, program: str) -> dict:
        (worker.root / "freshness.py").write_text(program)
        worker.start(logical_date, {}, dag="champion_freshness")
        return worker.result()

    return check


def test_op22_the_alarm_fires_where_no_night_was_ever_run_and_once_until_it_is_settled(
    check, worker
):
    stale = f"print({STALE!r}, file=sys.stderr); sys.exit(65)"
    log = worker.root / "alerts" / "alerts.jsonl"
    assert check("2017-10-30T01:30", stale)["tries"] == {"freshness": 1}
    (alert,) = map(json.loads, log.read_text().splitlines())
    assert (alert["dag"], alert["error"]) == ("champion_freshness", "StaleChampionError")
    assert alert["runbook"] == "docs/runbook.md#stalechampionerror"
    check("2017-10-31T02:30", stale)
    assert len(log.read_text().splitlines()) == 1
    assert check("2017-10-31T03:30", "")["state"] == "success"
    check("2017-10-31T04:30", stale)
    assert len(log.read_text().splitlines()) == 2


def test_the_alarm_is_about_today_whatever_the_runs_date(check, worker):
    before = datetime.now(UTC).date()
    check("2017-10-30T05:30", "")
    arguments = worker.ran()[0]["arguments"]
    assert before.isoformat() <= arguments[1] <= datetime.now(UTC).date().isoformat()
    assert arguments[2:4] == ["--root", str(worker.root)]
