"""Alerts of the real DAG, its stages toys that end as each test wants, sent to loopback."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORDS = "trainer.recommendations: ContractError: found mud; expected gold; fix: the river"
MUD = f"print({WORDS!r}, file=sys.stderr); sys.exit(65)"
EXPLAIN = """
import json, sys
from pathlib import Path
from airflow.sdk.exceptions import AirflowTaskTimeout
from dags import alerts, webhook
from dags.alerts import NAMES, explain

def fill(path, text):
    path.touch()
    raise OSError(28, "No space left on device")

folder, write_text = Path(sys.argv[1]), Path.write_text
Path.write_text = fill
try:
    alerts._write(folder / "StageCrashed.json", "{}")
except OSError:
    left = [path.name for path in folder.iterdir()]
Path.write_text = write_text
tries = len(alerts.DELIVERY_DELAYS) + 1
seconds = tries * webhook.TIMEOUT_SECONDS + sum(alerts.DELIVERY_DELAYS)
given = (None, AirflowTaskTimeout("hung"), ValueError("SomeOtherError: found x"))
facts = {"names": NAMES, "explained": [explain(one) for one in given]}
json.dump(facts | {"left": left, "seconds": seconds}, sys.stdout)
"""


def told(root: Path) -> list[dict[str, Any]]:
    """The lines of the alerts' file."""
    log = root / "alerts" / "alerts.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def end(worker):
    """Runs only the last task of a night, its stage a program of the test."""

    def end(
        program: str, logical_date: str | None = "2017-10-30", environment: dict | None = None
    ) -> dict[str, Any]:
        (worker.root / "recommendations.py").write_text(program)
        others = "(?!recommendations)[a-z_]+"
        worker.start(logical_date, {}, environment=environment, mark_success=others)
        return worker.result()

    return end


@pytest.fixture
def fail(end):
    """Runs a night whose last stage finds mud."""

    def fail(logical_date: str = "2017-10-30", environment: dict | None = None) -> dict[str, Any]:
        return end(MUD, logical_date, environment)

    return fail


def test_op21_an_alert_carries_run_date_reason_log_link_and_runbook_entry(fail, worker):
    result = fail()
    (alert,) = told(worker.root)
    assert alert.pop("at").endswith("+00:00")
    assert "/runs/" in alert["log"] and alert.pop("log").endswith(
        "/tasks/recommendations?try_number=1"
    )
    assert alert == {
        "title": "Penumbra: recommendations of 2017-10-30 failed: ContractError",
        "dag": "nightly_retraining",
        "task": "recommendations",
        "run": result["run_id"],
        "night": "2017-10-30",
        "error": "ContractError",
        "reason": "ContractError: found mud; expected gold; fix: the river",
        "runbook": "docs/runbook.md#contracterror",
    }


def test_op21_the_same_night_failing_again_alerts_no_more_until_it_has_succeeded(fail, end, worker):
    fail()
    assert "no alert: the incident is open since" in fail()["log"]
    assert len(told(worker.root)) == 1
    assert end("")["state"] == "success"
    fail()
    assert len(told(worker.root)) == 2


def test_op21_another_night_or_another_error_is_another_incident(fail, end, worker):
    fail()
    fail("2017-10-29")
    end(MUD.replace("ContractError", "HealthError"))
    assert [(a["night"], a["error"]) for a in told(worker.root)] == [
        ("2017-10-30", "ContractError"),
        ("2017-10-29", "ContractError"),
        ("2017-10-30", "HealthError"),
    ]


def test_op21_all_tries_of_a_task_are_one_alert(end, worker):
    assert end("sys.exit(1)")["tries"]["recommendations"] == 2
    (alert,) = told(worker.root)
    assert alert["error"] == "StageCrashed"
    assert "trainer.recommendations of 2017-10-30 ended with 1" in alert["reason"]


def test_a_failing_report_is_told_of_and_the_night_succeeds(worker):
    (worker.root / "report.py").write_text(MUD.replace("recommendations", "report"))
    worker.start("2017-10-30", {}, mark_success="(?!report)[a-z_]+")
    result = worker.result()
    assert (result["tasks"]["report"], result["state"]) == ("failed", "success")
    (alert,) = told(worker.root)
    assert (alert["task"], alert["error"]) == ("report", "ContractError")


def test_a_try_that_mends_itself_alerts_nobody(end, worker):
    once = "f = root / 'once'; c = f.exists(); f.touch(); sys.exit(0 if c else 1)"
    result = end(once)
    assert (result["state"], result["tries"]["recommendations"]) == ("success", 2)
    assert told(worker.root) == []


def test_a_run_tells_of_the_task_that_failed_it_without_a_word(worker):
    (worker.root / "recommendations.py").write_text(MUD)
    others, speechless = "(?!recommendations)[a-z_]+", ["recommendations"]
    for _ in range(2):
        worker.start("2017-10-30", {}, mark_success=others, speechless=speechless)
        assert worker.result()["state"] == "failed"
    (alert,) = told(worker.root)
    assert (alert["task"], alert["night"]) == ("recommendations", "2017-10-30")
    assert alert["error"] == "TaskLost"
    assert alert["log"].endswith("/tasks/recommendations?try_number=1")


def test_a_run_tells_of_a_killed_task_while_an_incident_of_another_error_is_open(fail, worker):
    fail()
    with (worker.root / "alerts" / "alerts.jsonl").open("a") as log:
        log.write('{"title": "cut off by a full di\n')
    others, speechless = "(?!recommendations)[a-z_]+", ["recommendations"]
    worker.start("2017-10-30", {}, mark_success=others, speechless=speechless)
    assert worker.result()["state"] == "failed"
    lines = (worker.root / "alerts" / "alerts.jsonl").read_text().splitlines()
    assert [json.loads(lines[n])["error"] for n in (0, 2)] == ["ContractError", "TaskLost"]
    assert len(lines) == 3


def test_a_run_without_a_date_alerts_too(end, worker):
    end("", None)
    (alert,) = told(worker.root)
    assert (alert["night"], alert["error"]) == ("undated", "UsageError")


def test_every_run_without_a_date_alerts(end, worker):
    end("", None)
    end("")
    end("", None)
    assert [alert["night"] for alert in told(worker.root)] == ["undated", "undated"]


def test_a_webhook_gets_the_alert_with_the_connections_token(fail, webhook):
    fail(environment=webhook.environment)
    ((headers, body),) = webhook.received
    assert headers["Authorization"] == "Bearer s3cret"
    assert body["text"].startswith("Penumbra: recommendations of 2017-10-30 failed: ContractError:")
    assert body["runbook"] == "docs/runbook.md#contracterror"


def test_a_redirect_is_no_delivery_and_is_not_followed(fail, webhook):
    webhook.refusals, webhook.refusal = 1, 302
    assert "not delivered (HTTP Error 302" in fail(environment=webhook.environment)["log"]
    assert len(webhook.received) == 2


def test_an_alert_is_sent_even_where_the_root_cannot_keep_it(fail, webhook, worker):
    (worker.root / "alerts").touch()  # a file: no folder can be made in it
    assert "cannot be kept" in fail(environment=webhook.environment)["log"]
    # With nothing kept, the end of the run cannot know of the first: better twice than never.
    assert [body["error"] for _, body in webhook.received] == ["ContractError", "TaskLost"]


def test_what_could_not_be_delivered_is_told_again_at_the_end_of_the_run(fail, webhook):
    webhook.refusals = 3
    assert "not delivered (HTTP Error 503" in fail(environment=webhook.environment)["log"]
    assert "the incident is open" in fail(environment=webhook.environment)["log"]
    assert [body["error"] for _, body in webhook.received] == ["ContractError"] * 4


def test_what_could_not_be_delivered_is_told_again_by_the_next_failure(fail, webhook):
    webhook.refusals = 6
    assert "Failed to send notification" in fail(environment=webhook.environment)["log"]
    fail(environment=webhook.environment)
    assert len(webhook.received) == 7


def test_a_delivery_that_is_refused_once_is_tried_again_at_once(fail, webhook):
    webhook.refusals = 1
    assert "not delivered (HTTP Error 503" in fail(environment=webhook.environment)["log"]
    assert "the incident is open" in fail(environment=webhook.environment)["log"]
    assert len(webhook.received) == 2


def test_e_mail_goes_to_every_address_with_the_nights_own_words(fail, mailbox):
    fail(environment=mailbox.environment)
    fail("2017-10-29", environment=mailbox.environment)
    first, second = mailbox.received
    assert first["To"] == "a@example.com, b@example.com"
    assert first["Subject"] == "Penumbra: recommendations of 2017-10-30 failed: ContractError"
    assert second["Subject"] == "Penumbra: recommendations of 2017-10-29 failed: ContractError"
    html = second.get_payload(0).get_payload(decode=True).decode()
    assert "ContractError: found mud" in html and "docs/runbook.md#contracterror" in html


@pytest.fixture(scope="module")
def described(airflow_environment, tmp_path_factory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("airflow")
    project = Path(__file__).parent.parent.parent
    environment = airflow_environment(home, project, home / "root")
    done = subprocess.run(
        [sys.executable, "-c", EXPLAIN, home / "alerts"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_failed_without_an_error_of_its_own_has_a_name_too(described):
    assert [name for name, _ in described["explained"]] == [
        "TaskLost",
        "TaskTimedOut",
        "StageCrashed",
    ]


def test_an_incident_that_a_full_disk_cut_off_is_not_open(described):
    assert described["left"] == []


def test_a_webhook_that_never_answers_leaves_a_task_within_the_time_of_its_callbacks(described):
    assert described["seconds"] < 20  # Airflow's core.task_success_overtime


def test_op21_every_alert_has_its_entry_in_the_runbook_and_all_entries_but_one_an_alert(described):
    runbook = Path(__file__).parent.parent.parent / "docs" / "runbook.md"
    headings = re.findall(r"^## (\w+)$", runbook.read_text(), re.MULTILINE)
    no_alert_says_so = "BadChampion"
    assert sorted(headings) == sorted([*described["names"], no_alert_says_so])
