"""The person who answers, and the scheduler that stops waiting, beside the fixture `worker`."""

import threading
import time
from typing import Any

SECONDS_UNTIL_IDLE = 2.0


def answering(
    given: dict[str, Any], seen: dict[str, Any], run_has_ended: threading.Event
) -> threading.Thread:
    """Answers the first task that waits for input, and notes in `seen` what it looked like.

    Args:
        given: `chosen` (Approve or Reject) and `user`, or nothing: then time runs out; or `clear`:
            the task is cleared, as the UI does it.
        seen: Filled with state, pool slots and the question.
        run_has_ended: Set where nobody will be asked any more.
    """
    thread = threading.Thread(target=_answer, args=(given, seen, run_has_ended), daemon=True)
    thread.start()
    return thread


def _answer(given: dict[str, Any], seen: dict[str, Any], run_has_ended: threading.Event) -> None:
    from airflow.models.pool import Pool
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import select
    from sqlalchemy.orm import joinedload

    waits = select(TaskInstance).where(TaskInstance.state == TaskInstanceState.AWAITING_INPUT)
    waits = waits.options(joinedload(TaskInstance.hitl_detail))
    run = None
    while not run and not run_has_ended.is_set():
        with create_session() as session:
            task = session.scalars(waits).first()
            if task:
                timeout = task.trigger_timeout - task.start_date
                seen |= {
                    "state": str(task.state),
                    "task": task.task_id,
                    "subject": task.hitl_detail.subject,
                    "body": task.hitl_detail.body,
                    "params": task.hitl_detail.params,
                    "hours": timeout.total_seconds() / 3600,
                    "trigger": task.trigger_id,
                    "pools": {
                        name: pool["running"] + pool["queued"] + pool["deferred"]
                        for name, pool in Pool.slots_stats(session=session).items()
                    },
                }
                run = task.dag_id, task.run_id
        time.sleep(0.1)
    if not run:
        return
    if given.get("clear"):
        # `dag.test` still writes the task's row for a moment; then it looks once a second.
        time.sleep(SECONDS_UNTIL_IDLE)
        _clear(*run)
    elif given:
        _respond(*run, **given)
    else:
        _time_out()


def _respond(dag_id: str, run_id: str, chosen: str, user: str) -> None:
    """What the UI's *Required Actions* sends, through the app of the API server."""
    from airflow.api_fastapi.app import cached_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    app = cached_app(apps="core")
    token = app.state.auth_manager.generate_jwt(SimpleAuthManagerUser(username=user, role="user"))
    answered = TestClient(app).patch(
        f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/approval/-1/hitlDetails",
        json={"chosen_options": [chosen], "params_input": {}},
        headers={"Authorization": f"Bearer {token}"},
    )
    answered.raise_for_status()


def _clear(dag_id: str, run_id: str) -> None:
    from airflow.models.taskinstance import TaskInstance, clear_task_instances
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        tasks = select(TaskInstance).filter_by(dag_id=dag_id, run_id=run_id, task_id="approval")
        clear_task_instances(session.scalars(tasks).all(), session)


def _time_out() -> None:
    """Moves the deadline into the past and lets the scheduler look for such tasks."""
    from datetime import UTC, datetime

    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import update

    with create_session() as session:
        is_waiting = TaskInstance.state == TaskInstanceState.AWAITING_INPUT
        past = datetime(2020, 1, 1, tzinfo=UTC)
        session.execute(update(TaskInstance).where(is_waiting).values(trigger_timeout=past))
    SchedulerJobRunner(Job()).check_awaiting_input_timeouts()
