"""The DAG as Airflow sees it, imported once, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.settings import properties

PROJECT = Path(__file__).parent.parent.parent
BEFORE = ("interactions", "health", "items", "sequences", "item_graph", "soft_targets", "training")

DESCRIBE = """
import importlib, json, os, sys
from datetime import UTC, datetime, timedelta
from dags import nightly_retraining
dag = nightly_retraining.dag
imported = sorted({name.split(".")[0] for name in sys.modules})

from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.encoders import coerce_to_core_timetable
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction
from dags.night_params import overrides
from schemas.errors import UsageError

timetable = coerce_to_core_timetable(dag.timetable)
anywhen = TimeRestriction(datetime(2017, 1, 1, tzinfo=UTC), None, catchup=True)
first = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=anywhen)
def refuses(name, value):
    try:
        dag.params.get_param(name).resolve(value)
    except ParamValidationError as error:
        return str(error)
def refused_at_work(name, value):
    try:
        overrides({name: value}, nightly_retraining.settings)
    except UsageError as error:
        return str(error)
described = {
    "imported": imported,
    "id": dag.dag_id,
    "doc": dag.doc_md,
    "max_active_runs": dag.max_active_runs,
    "catchup": dag.catchup,
    "interval": [first.data_interval.start.isoformat(), first.data_interval.end.isoformat()],
    "run_after": first.run_after.isoformat(),
    "order": [task.task_id for task in dag.topological_sort()],
    "downstream": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
    "tasks": {task.task_id: {
        "module": task.module,
        "doc": task.doc_md,
        "pool": task.pool,
        "retries": task.retries,
        "delay": task.retry_delay.total_seconds(),
        "backoff": task.retry_exponential_backoff,
        "max_delay": task.max_retry_delay.total_seconds(),
        "timeout": task.execution_timeout.total_seconds(),
        "xcom": task.do_xcom_push,
        "outlets": sorted(asset.name for asset in task.outlets),
    } for task in dag.tasks},
    "params": {name: {"value": param.value, "about": param.description, **param.schema}
        for name, param in dag.params.items()},
    "with_copies_of_params": [task.task_id for task in dag.tasks if task.params],
    "epochs_0": refuses("training.epochs", 0),
    "loss_best": refuses("training.loss", "best"),
    "other_retries": [refuses("schedule.retries", n) for n in (1, 9)],
    "password": refused_at_work("spark.conf", {"spark.hadoop.fs.s3a.secret.key": "s3cret"}),
    "misspelt": refused_at_work("training.epoch", 3),
    "other_hours": refuses("gate.approval_timeout_hours", 1.0),
    "other_approval": [refuses("gate.approval", a) for a in ("none", "required")],
    "serialized": bool(DagSerialization.serialize_dag(dag)),
}
os.environ["PENUMBRA_GATE__APPROVAL"] = "required"
dag = importlib.reload(nightly_retraining).dag
approval = dag.get_task("approval")
described["asking"] = {
    "downstream": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
    "pools": {task.task_id: task.pool for task in dag.tasks},
    "modules": {name: dag.get_task(name).module for name in ("decision", "promotion")},
    "trigger_rules": {task.task_id: task.trigger_rule.value for task in dag.tasks},
    "timeout": approval.execution_timeout,
    "defaults": approval.defaults,
    "other_approval": [refuses("gate.approval", a) for a in ("none", "required")],
    "serialized": bool(DagSerialization.serialize_dag(dag)),
}
json.dump(described, sys.stdout)
"""


@pytest.fixture(scope="module")
def dag(airflow_environment, tmp_path_factory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("airflow")
    environment = airflow_environment(home, PROJECT, home / "root")
    described = subprocess.run(
        [sys.executable, "-c", DESCRIBE],
        cwd=PROJECT,
        env=environment | {"PENUMBRA_TRAINING__EPOCHS": "7"},
        capture_output=True,
        text=True,
    )
    assert described.returncode == 0, described.stderr
    return json.loads(described.stdout)


def test_importing_the_dag_loads_neither_spark_nor_torch_nor_mlflow(dag):
    assert not {"pyspark", "torch", "mlflow", "jobs", "trainer"} & set(dag["imported"])


def test_the_stages_follow_each_other_in_one_chain(dag):
    order = dag["order"]
    assert order == [
        "interactions",
        "health",
        "items",
        "sequences",
        "item_graph",
        "soft_targets",
        "training",
        "evaluation",
        "promotion",
        "recommendations",
        "report",
    ]
    assert [dag["downstream"][task] for task in order] == [[task] for task in order[1:]] + [[]]


def test_a_scheduled_run_covers_one_day_and_starts_when_it_is_over(dag):
    assert dag["interval"] == ["2017-01-01T02:00:00+00:00", "2017-01-02T02:00:00+00:00"]
    assert dag["run_after"] == "2017-01-02T02:00:00+00:00"


def test_one_night_at_a_time_and_none_of_the_past_by_itself(dag):
    assert dag["max_active_runs"] == 1
    assert dag["catchup"] is False


def test_promotion_alone_is_in_the_pool_of_one(dag):
    pools = {name: task["pool"] for name, task in dag["tasks"].items()}
    assert pools.pop("promotion") == "promotion"
    assert set(pools.values()) == {"default_pool"}
    assert "pools set promotion 1" in dag["doc"]


def test_op17_every_task_retries_with_growing_delays_up_to_an_hour(dag):
    for task in dag["tasks"].values():
        assert (task["retries"], task["backoff"], task["max_delay"]) == (1, 2, 3600)
        assert task["timeout"] >= 3600


def test_no_task_puts_data_into_xcom(dag):
    assert not any(task["xcom"] for task in dag["tasks"].values())


def test_the_outlets_of_a_task_are_the_tables_its_stage_writes(dag):
    assert {name: task["outlets"] for name, task in dag["tasks"].items()} == {
        "interactions": ["interactions", "quarantine"],
        "health": ["health"],
        "items": ["items"],
        "sequences": ["sequences"],
        "item_graph": ["item_graph"],
        "soft_targets": ["soft_targets"],
        "training": ["checkpoints"],
        "evaluation": ["scorecards"],
        "promotion": ["promotions"],
        "recommendations": ["recommendations"],
        "report": [],
    }


def test_every_task_says_what_it_writes_and_what_is_late_if_it_fails(dag):
    for task in dag["tasks"].values():
        for question in ("Reads:", "Writes:", "If late:"):
            assert question in task["doc"], task["module"]


def test_the_form_offers_every_setting_with_its_loaded_value_and_range(dag):
    passwords = {"registry.tracking_uri", "spark.conf"}
    assert set(dag["params"]) == {"ds", "force", *properties()} - passwords
    assert dag["password"].startswith("found spark.conf as a parameter of a run; expected settings")
    expected = (
        "expected ds, force or a setting, such as training.epochs; fix: the run's configuration"
    )
    assert dag["misspelt"] == f"found training.epoch as a parameter of a run; {expected}"
    epochs = dag["params"]["training.epochs"]
    assert epochs["about"] == "Passes over the training windows at most."
    assert (epochs["value"], epochs["type"], epochs["minimum"]) == (7, "integer", 1)
    assert epochs["section"] == "training"


def test_the_forms_parameters_are_stored_with_the_dag_and_not_again_with_each_task(dag):
    assert dag["with_copies_of_params"] == []


def test_the_form_refuses_what_the_settings_would_refuse(dag):
    assert "0 is less than the minimum of 1" in dag["epochs_0"]
    assert "'best' is not one of ['cross_entropy', 'label_smoothing'" in dag["loss_best"]


def test_the_dag_can_be_stored(dag):
    assert dag["serialized"] is True


def test_where_approval_is_required_a_person_stands_between_decision_and_promotion(dag):
    asking = dag["asking"]
    chain = {name: below for name, below in asking["downstream"].items() if name in BEFORE}
    assert chain == {name: dag["downstream"][name] for name in BEFORE}
    assert asking["downstream"]["evaluation"] == ["decision"]
    assert asking["downstream"]["decision"] == ["approval", "promotion"]
    assert asking["downstream"]["approval"] == ["promotion"]
    assert asking["downstream"]["promotion"] == ["recommendations"]
    assert set(asking["modules"].values()) == {"trainer.promotion"}
    assert {name for name, pool in asking["pools"].items() if pool == "promotion"} == {
        "decision",
        "promotion",
    }
    assert asking["serialized"] is True


def test_promotion_goes_on_where_nobody_was_asked_and_all_else_after_success_only(dag):
    rules = dag["asking"]["trigger_rules"]
    assert rules.pop("promotion") == "none_failed_min_one_success"
    assert rules.pop("report") == "all_done_setup_success"  # of a stopped night too
    assert set(rules.values()) == {"all_success"}


def test_the_wait_for_a_person_ends_by_its_own_limit_and_with_a_rejection(dag):
    assert (dag["asking"]["timeout"], dag["asking"]["defaults"]) == (None, ["Reject"])


def test_a_run_cannot_lift_or_ask_for_an_approval(dag):
    lifted, same = dag["asking"]["other_approval"]
    assert "'none' is not one of ['required']" in lifted and same is None
    same, asked_for = dag["other_approval"]
    assert "'required' is not one of ['none']" in asked_for and same is None
    assert dag["other_hours"] is None


def test_a_run_cannot_change_what_the_dag_was_made_of_when_it_was_parsed(dag):
    same, other = dag["other_retries"]
    assert "9 is not one of [1]" in other and same is None
