"""Champion freshness: alarms when what serves was trained on data that are too old.

It looks at the registry by itself, so it fires too where the nights fail, are paused, or where no
run was ever created. One task, one program; the champion's last training day may lie
`health.freshness_hours` back, and without a champion the alarm fires at once. Its incident stays
open, without a second alert, until a champion is fresh again.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable

from dags.alerts import Alerts
from dags.installation import PROJECT, ROOT, SETTINGS_FILE, documentation, retries
from dags.stage_operator import StageOperator
from schemas.settings import load

MODULE = "trainer.freshness"

settings = load(SETTINGS_FILE)
alerts = Alerts(ROOT, settings.alerts, is_dated=False)


class CheckOperator(StageOperator):
    """A program about the present: its day is today, whatever the run's date."""

    def night(self, context: Any) -> date:
        """Today, UTC."""
        return datetime.now(UTC).date()


with DAG(
    dag_id="champion_freshness",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(settings.schedule.freshness_cron, timezone="UTC"),
    start_date=datetime.fromisoformat(settings.schedule.start_date).replace(tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    on_failure_callback=alerts.notify_of_run,
    tags=["penumbra"],
) as dag:
    CheckOperator(
        task_id=MODULE.split(".")[-1],
        module=MODULE,
        folder=PROJECT,
        root=ROOT,
        settings_file=SETTINGS_FILE,
        settings=settings,
        doc_md=documentation(MODULE),
        **retries(settings),
        execution_timeout=timedelta(minutes=10),
        on_failure_callback=alerts,
        on_success_callback=alerts.close,
    )
