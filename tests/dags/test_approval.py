"""The night waits for a person in Airflow's own state for it, and the ledger says who answered.

`promotion` is the real stage, on a night of tiny tables that was decided on; others are toys.
"""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.promotions import PROMOTIONS, read_ledger
from schemas.settings import Settings
from tests.trainer import conftest as trainer

# The fixtures of the trainer's tests.
migrated_store, registry, night_of = trainer.migrated_store, trainer.registry, trainer.night_of
publish_items, publish_sequences = trainer.publish_items, trainer.publish_sequences
publish_model, publish_scorecards = trainer.publish_model, trainer.publish_scorecards

PROJECT = Path(__file__).parent.parent.parent
NIGHT, NEXT = date(2017, 10, 30), date(2017, 10, 31)
GOOD, BETTER = [0.5] * 4, [0.6] * 4
EARLIER = "(?!approval|promotion|recommendations)[a-z_]+"
REAL_STAGE = f"""
os.chdir({str(PROJECT)!r})
environment = os.environ | {{"PYTHONPATH": {str(PROJECT)!r}}}
command = [sys.executable, "-m", "trainer.promotion", *sys.argv[1:]]
os.execve(sys.executable, command, environment)
"""
GATE = {"approval": "required", "min_users": 4, "canary_users": 0, "approval_timeout_hours": 3}


@pytest.fixture
def ask(worker, registry, night_of):
    """Runs the end of a night whose candidate passed, with somebody's answer."""
    from trainer import promotion

    promotion.main(night_of(GOOD, NIGHT))
    night = night_of(BETTER, NEXT)
    night.settings = Settings.model_validate({"gate": GATE})
    promotion.main(night)
    (night.root / "promotion.py").write_text(REAL_STAGE)
    environment = {f"PENUMBRA_GATE__{key.upper()}": str(value) for key, value in GATE.items()}
    environment["PENUMBRA_ROOT"] = str(night.root)

    def ask(answer: dict[str, Any], more: dict[str, str] | None = None) -> dict[str, Any]:
        own = environment | (more or {})
        worker.start(str(NEXT), {}, "nightly_retraining", own, EARLIER, answer)
        return worker.result()

    return ask


def last(registry):
    return read_ledger(registry.root, NEXT)[-1]


def test_the_night_waits_without_a_slot_until_somebody_approves_and_says_who(ask, registry):
    result = ask({"chosen": "Approve", "user": "alice"})
    seen = result["seen"]
    assert result["state"] == "success", result["log"]
    assert (seen["task"], seen["state"], seen["trigger"]) == ("approval", "awaiting_input", None)
    assert set(seen["pools"].values()) == {0}
    assert seen["hours"] == pytest.approx(3, abs=0.1)
    assert seen["params"] == {}
    assert seen["subject"] == "may version 2 of 2017-10-31 become champion?"
    assert "Candidate: version 2; champion is version 1." in seen["body"]
    assert "| floor | passed | 0.6 | 0.005 |" in seen["body"]
    row = last(registry)
    assert (row["outcome"], row["answered_by"]) == ("promote", "alice")
    assert registry.champion().number == 2
    assert result["tasks"]["recommendations"] == "success"
    (alert,) = map(json.loads, (registry.root / "alerts/alerts.jsonl").read_text().splitlines())
    assert (alert["error"], alert["night"]) == ("ApprovalAwaited", "2017-10-31")
    assert alert["title"] == "Penumbra: may version 2 of 2017-10-31 become champion?"
    assert alert["log"].split("?")[0].endswith("/tasks/approval/required_actions")
    assert not list((registry.root / "alerts/open").rglob("*.json"))


def test_a_rejection_is_recorded_and_the_night_goes_on_with_the_old_champion(ask, registry):
    result = ask({"chosen": "Reject", "user": "bob"})
    row = last(registry)
    assert (row["outcome"], row["answered_by"]) == ("hold", "bob")
    assert row["reason"].startswith("rejected by bob; the gate passed: ")
    assert registry.champion().number == 1
    assert set(result["tasks"].values()) == {"success"}
    (registry.root / "promotion.py").write_text("")
    again = ask({})
    assert again["tasks"].pop("approval") == "skipped" and again["seen"] == {}
    assert set(again["tasks"].values()) == {"success"}


def test_without_an_answer_in_time_the_scheduler_rejects_whoever_could_be_told(
    ask, registry, webhook
):
    webhook.refusals = 3
    result = ask({}, webhook.environment)
    assert len(webhook.received) == 3
    row = last(registry)
    assert (row["outcome"], row["answered_by"]) == ("hold", None)
    assert row["reason"].startswith("nobody answered within 3 h; the gate passed: ")
    assert registry.champion().number == 1
    assert set(result["tasks"].values()) == {"success"}


def test_a_second_decision_is_not_asked_about_under_the_first_ones_table(
    ask, registry, publish_rows
):
    first = last(registry)
    second = first | {"decided_at": first["decided_at"] + timedelta(minutes=5)}
    publish_rows(PROMOTIONS, [first, second], NEXT)
    result = ask({"clear": True})
    assert result["seen"]["task"] == "approval"
    assert (result["tasks"]["approval"], result["tries"]["approval"]) == ("failed", 2)
    assert "UsageError: found another decision about 2017-10-31 than this run" in result["log"]
    assert registry.champion().number == 1


def test_a_skipped_day_asks_nobody_and_promotes_nothing(worker):
    (worker.root / "interactions.py").write_text("sys.exit(66)")
    conf = {"events.missing_day": "skip"}
    worker.start("2017-10-30", conf, environment={"PENUMBRA_GATE__APPROVAL": "required"})
    tasks = worker.result()["tasks"]
    assert tasks.pop("report") == "success"
    assert set(tasks.values()) == {"skipped"}


def test_a_night_without_a_decision_fails_with_the_way_to_one(worker):
    worker.start(
        "2017-10-30",
        {},
        environment={"PENUMBRA_GATE__APPROVAL": "required"},
        mark_success="(?!approval)[a-z_]+",
    )
    result = worker.result()
    assert result["tries"]["approval"] == 1
    assert "MissingInputError: found no decision about 2017-10-30" in result["log"]
    assert "fix: clear decision" in result["log"]
