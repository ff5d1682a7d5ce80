"""Nightly retraining: from one day of raw events to tonight's champion and its recommendations.

Each task starts one stage as a program and waits; tables carry all data, XCom none. A run is
about one whole UTC day: the parameter `ds`, else the day of its logical date
(`dags/night_date.py`). Data errors fail at once, anything else is retried with growing delays.

By hand: *Trigger* and give `ds`; every setting can be changed in the same form, for that run.
Several past days: `airflow backfill create --dag-id nightly_retraining --from-date 2017-10-30
--to-date 2017-10-31T23:59`; its end is a time, and a night is one of a day at 02:00. A night that
is repeated skips the stages whose inputs, settings and code are the same; `force` does them again.

One run is at work at a time. Airflow lets runs of a backfill start beside others; their stages then
wait, as `up_for_reschedule`, until it is their run's turn, older logical dates first
(`dags/turns.py`).

A task that fails for good is told of once (`dags/alerts.py`), with its entry in docs/runbook.md.

`promotion` moves the champion's alias and runs in the pool `promotion`, which has one slot, so
that two runs, of whatever DAG, never decide at once. Make the pool where you install this
(`airflow pools set promotion 1 "one gate decision at a time"`): without it Airflow leaves the
task waiting. All other tasks share `default_pool`, which only bounds the load of the host.

With `gate.approval = "required"`, `decision` stands where `promotion` was, `approval` asks a person
about what the gate let pass (`dags/approval.py`), and `promotion` takes the answer.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable

from dags.alerts import Alerts
from dags.approval import AnsweredOperator, AskOperator, Request
from dags.installation import PROJECT, ROOT, SETTINGS_FILE, documentation, retries
from dags.night_params import night_params
from dags.stage_operator import StageOperator
from schemas.reference import CHAIN
from schemas.settings import load

PROMOTION_POOL = "promotion"

settings = load(SETTINGS_FILE)
alerts = Alerts(ROOT, settings.alerts)


def stage(
    module: str, operator: type[StageOperator] = StageOperator, **arguments: Any
) -> StageOperator:
    """The task of one stage; its documentation and its tables are those of the module."""
    arguments.setdefault("task_id", module.split(".")[-1])
    return operator(
        module=module,
        folder=PROJECT,
        root=ROOT,
        settings_file=SETTINGS_FILE,
        settings=settings,
        doc_md=documentation(module),
        outlets=[Asset(contract.table) for contract in CHAIN if contract.stage == module],
        **arguments,
    )


with DAG(
    dag_id="nightly_retraining",
    doc_md=__doc__,
    # "@daily" would be a point in time in Airflow 3, without the interval a night is about.
    schedule=CronDataIntervalTimetable(settings.schedule.cron, timezone="UTC"),
    start_date=datetime.fromisoformat(settings.schedule.start_date).replace(tzinfo=UTC),
    catchup=False,
    # Tonight starts from the catalogue, weights and champion that last night left.
    max_active_runs=1,
    params=night_params(settings),
    default_args={
        **retries(settings),
        # A task that hangs this long is stuck; it is killed and retried.
        "execution_timeout": timedelta(hours=6),
        "on_failure_callback": alerts,
        "on_success_callback": alerts.close,
    },
    on_failure_callback=alerts.notify_of_run,
    tags=["penumbra"],
) as dag:
    interactions = stage("jobs.interactions", may_skip_day=True)
    health = stage("jobs.health")
    items = stage("jobs.items")
    sequences = stage("jobs.sequences")
    item_graph = stage("jobs.item_graph")
    soft_targets = stage("jobs.soft_targets")
    training = stage("trainer.training")
    evaluation = stage("trainer.evaluation")
    if settings.gate.approval == "required":
        decision = stage("trainer.promotion", task_id="decision", pool=PROMOTION_POOL)
        approval = AskOperator(root=ROOT, notifiers=Request(ROOT, settings.alerts))
        promotion = stage("trainer.promotion", AnsweredOperator, pool=PROMOTION_POOL)
        decision >> approval >> promotion << decision
    else:
        decision = promotion = stage("trainer.promotion", pool=PROMOTION_POOL)
    recommendations = stage("trainer.recommendations")
    report = stage("trainer.report")

    interactions >> health >> items >> sequences >> item_graph >> soft_targets
    soft_targets >> training >> evaluation >> decision
    promotion >> recommendations
    # A teardown runs after a night that was stopped too, and is not what its success depends on.
    recommendations >> report.as_teardown()
