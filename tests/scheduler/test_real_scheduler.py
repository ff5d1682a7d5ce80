"""Real nights under a real scheduler: Spark, torch, MLflow and all of Airflow but containers.

The nights are few and shared, as each costs a minute: the schedule's own (its events are broken),
one that is triggered (the disk of a table is away at first, two tasks are killed, and a second run
is triggered beside it), and a backfill of that day and the one before, which only
`make test-scheduler` has time for.
"""

import sys
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from schemas.checkpoints import CHECKPOINTS
from schemas.health import HEALTH
from schemas.items import ITEMS
from schemas.partitions import find, get, partition_path
from schemas.promotions import PROMOTIONS
from schemas.recommendations import RECOMMENDATIONS
from schemas.reference import CHAIN
from schemas.settings import load
from trainer.journal import Journal
from trainer.registry import Registry

pytestmark = pytest.mark.scheduler

DAG = "nightly_retraining"
TABLES = [contract for contract in CHAIN if contract.table != "events"]
NOT_OVER = datetime.now(UTC).date() + timedelta(days=1)
KILL_SECONDS = 20.0
"""Of a loaded machine; on an idle one all is gone in a tenth of a second."""


@dataclass(frozen=True)
class Triggered:
    """Two runs that were triggered together, and what was seen while the first was running.

    What two kills left alive of its tasks, by killed module.
    """

    first: str
    second: str
    second_meanwhile: str
    left: dict[str, list[psutil.Process]]


@dataclass(frozen=True)
class Backfill:
    """The runs of a backfill by their day.

    Before it: what was published of its second day, by table, and which version served.
    """

    runs: dict[date, str]
    before: dict[str, str]
    served_before: int


@pytest.fixture(scope="module")
def scheduled(airflow) -> str:
    """The run that the schedule makes by itself as soon as the DAG is unpaused; it has ended.

    The turn is that of a run which somebody has deleted.
    """
    turn = airflow.root / "turns" / DAG
    turn.parent.mkdir()
    turn.write_text("manual__deleted")
    airflow.call("PATCH", f"/dags/{DAG}?update_mask=is_paused", {"is_paused": False})

    def made() -> list[dict[str, Any]]:
        return [run for run in airflow.runs() if run["run_type"] == "scheduled"]

    (run,) = airflow.until(made, "the schedule made no run", 120)
    return str(airflow.finished(run["dag_run_id"])["dag_run_id"])


@pytest.fixture(scope="module")
def triggered(airflow, scheduled) -> Triggered:
    """A night on a table whose disk comes back after two tries, and a run triggered beside it.

    Its items and its training are killed once.
    """
    disk = airflow.root / "disk"
    table = airflow.root / "tables" / HEALTH.table
    table.parent.mkdir(exist_ok=True)
    table.symlink_to(disk)
    first = airflow.trigger(ds=str(airflow.second))
    second = airflow.trigger(ds=str(NOT_OVER))

    def failed_twice() -> bool:
        health = airflow.tasks(first).get("health", {"state": None, "try_number": 0})
        return health["state"] == "up_for_retry" and health["try_number"] >= 2

    airflow.until(failed_twice, "health was not tried again", 300, first)
    meanwhile = airflow.run(second)["state"]
    disk.mkdir()
    left = {"jobs.items": kill_supervisor(airflow, "jobs.items", airflow.second, first)}
    left["trainer.training"] = kill_group(airflow, "trainer.training", airflow.second, first)
    airflow.finished(first)
    airflow.finished(second)
    return Triggered(first, second, meanwhile, left)


@pytest.fixture(scope="module")
def backfill(airflow, triggered) -> Backfill:
    """Two days as the DAG's documentation says."""
    before = published(airflow.root, airflow.second)
    (served_before,) = served(airflow.root, airflow.second)
    command = ["backfill", "create", "--dag-id", DAG, "--from-date", str(airflow.first)]
    command += ["--to-date", f"{airflow.second}T23:59"]
    airflow.command(sys.executable, "-m", "airflow", *command)
    runs = {
        datetime.fromisoformat(run["logical_date"]).date(): run["dag_run_id"]
        for run in airflow.runs()
        if run["run_type"] == "backfill"
    }
    for run_id in runs.values():
        airflow.finished(run_id)
    return Backfill(runs, before, served_before)


def kill_supervisor(airflow, module: str, ds: date, run_id: str) -> list[psutil.Process]:
    """SIGKILL to the process that supervises a task, once its stage has started Java.

    Returns those of the task's processes that are alive a while after.
    """
    stage = airflow.stage(module, ds, run_id)

    def has_java() -> bool:
        return "java" in {process.name() for process in stage.children(recursive=True)}

    airflow.until(has_java, f"{module} started no Java", 120, run_id)
    task = stage.parent()
    processes = [task, *task.children(recursive=True)]
    task.parent().kill()
    return alive(processes)


def kill_group(airflow, module: str, ds: date, run_id: str) -> list[psutil.Process]:
    """SIGKILL to the first process of a stage; returns what of it is alive a while after."""
    stage = airflow.stage(module, ds, run_id)
    processes = [stage, *stage.children(recursive=True)]
    stage.kill()
    return alive(processes)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended after a while; one that waits to be reaped has."""

    def has_ended(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    deadline = time.monotonic() + KILL_SECONDS
    while (left := [p for p in processes if not has_ended(p)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def published(root: Path, ds: date) -> dict[str, str]:
    """The run that each table's pointer names."""
    return {table.table: get(root, table, ds).manifest.run for table in TABLES}


def served(root: Path, ds: date) -> set[int]:
    """The model versions whose recommendations a night has published."""
    return set(get(root, RECOMMENDATIONS, ds).read()["model_version"].to_pylist())


def sealed_runs(root: Path, contract: Any, ds: date) -> list[Path]:
    """All runs of a partition that were published, whether or not they are current."""
    return list(partition_path(root, contract, ds).glob("run=*/manifest.json"))


def test_op17_a_data_error_fails_the_scheduled_night_on_its_first_try(airflow, scheduled):
    tasks = airflow.tasks(scheduled)
    why = airflow.explain(scheduled)
    first = tasks["interactions"]
    assert (first["state"], first["try_number"]) == ("failed", 1), why
    assert "ended with 65: DataError: found" in why and "without the column item_id" in why, why
    assert tasks.pop("report")["state"] == "success", why  # it tells of stopped nights, too
    assert {task["state"] for task in tasks.values()} == {"failed", "upstream_failed"}, why
    assert find(airflow.root, ITEMS, airflow.scheduled) is None


def test_a_night_triggered_by_rest_publishes_promotes_and_recommends(airflow, triggered):
    assert airflow.run(triggered.first)["state"] == "success", airflow.explain(triggered.first)
    assert published(airflow.root, airflow.second).keys() == {table.table for table in TABLES}
    (decision,) = get(airflow.root, PROMOTIONS, airflow.second).read().to_pylist()
    assert decision["outcome"] == "promote", decision["reason"]
    assert served(airflow.root, airflow.second) == {decision["candidate_version"]}


def test_op17_an_infrastructure_error_is_retried_with_growing_delays_until_it_is_gone(
    airflow, triggered
):
    tries = airflow.tries(triggered.first, "health")
    why = airflow.explain(triggered.first)
    states = [one["state"] for one in tries]
    assert states[:2] == ["failed", "failed"] and states[-1] == "success", (states, why)
    ends = [datetime.fromisoformat(one["end_date"]) for one in tries]
    starts = [datetime.fromisoformat(one["start_date"]) for one in tries]
    waited = [(starts[n + 1] - ends[n]).total_seconds() for n in range(2)]
    assert waited[0] >= airflow.retry_delay_seconds, waited
    assert waited[1] >= 2 * airflow.retry_delay_seconds, waited


def test_a_second_run_stays_queued_until_the_first_has_ended(airflow, triggered):
    assert triggered.second_meanwhile == "queued"
    first, second = airflow.run(triggered.first), airflow.run(triggered.second)
    assert second["start_date"] >= first["end_date"]


def test_op16_a_run_of_a_day_that_is_not_over_fails_at_once(airflow, triggered):
    task = airflow.tasks(triggered.second)["interactions"]
    why = airflow.explain(triggered.second)
    assert (task["state"], task["try_number"]) == ("failed", 1), why
    assert f"found ds {NOT_OVER}, a day that is not over" in why, why


def test_the_pool_of_the_gate_has_one_slot_and_promotion_is_in_it(airflow, triggered):
    assert airflow.call("GET", "/pools/promotion")["slots"] == 1
    assert airflow.tasks(triggered.first)["promotion"]["pool"] == "promotion"


def test_op18_tasks_that_are_killed_leave_no_process_and_succeed_when_tried_again(
    airflow, triggered
):
    assert triggered.left == {"jobs.items": [], "trainer.training": []}
    run_id = triggered.first
    assert airflow.run(run_id)["state"] == "success", airflow.explain(run_id)
    for task in ("items", "training"):
        tries = [one["state"] for one in airflow.tries(run_id, task)]
        assert tries == ["failed", "success"], (task, tries, airflow.explain(run_id))
    for contract in (ITEMS, CHECKPOINTS):
        found = sealed_runs(airflow.root, contract, airflow.second)
        assert len(found) == 1, found


@pytest.mark.backfill
def test_a_backfill_never_runs_beside_another_run(airflow, backfill):
    runs = [run["dag_run_id"] for run in airflow.runs()]
    spans = sorted(span for run_id in runs if (span := airflow.span(run_id)))
    assert len(spans) == 4
    for (_, end, earlier), (start, _, later) in pairwise(spans):
        assert end <= start, f"{later} was at work before {earlier} had ended"


@pytest.mark.backfill
def test_op06_a_backfill_moves_the_champion_only_forward(airflow, backfill):
    for run_id in backfill.runs.values():
        assert airflow.run(run_id)["state"] == "success", airflow.explain(run_id)
    assert sorted(backfill.runs) == [airflow.first, airflow.second]
    (held,) = get(airflow.root, PROMOTIONS, airflow.first).read().to_pylist()
    assert held["outcome"] == "hold" and "champion_is_newer" in held["reason"], held["reason"]
    registry = Registry(airflow.root, load(airflow.settings_file))
    moves = [entry.version for entry in Journal(airflow.root).moves()]
    assert len(moves) == 2 and {registry.get(version).ds for version in moves} == {airflow.second}
    assert moves[0] == backfill.served_before
    assert served(airflow.root, airflow.second) == {registry.champion().number} == {moves[1]}
    decided = get(airflow.root, PROMOTIONS, airflow.second).read().to_pylist()
    assert decided[0]["candidate_version"] == backfill.served_before


@pytest.mark.backfill
def test_op02_a_backfill_of_a_night_that_was_run_makes_only_what_has_changed(airflow, backfill):
    """Which is all that follows from the catalogue of the night before, new since then."""
    now = published(airflow.root, airflow.second)
    same = {table for table, run in now.items() if run == backfill.before[table]}
    assert same == {"interactions", "quarantine"}
