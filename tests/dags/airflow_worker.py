"""Program behind the fixture `worker`: runs the DAG for every request line on stdin."""

import gc
import importlib
import json
import os
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

from answering import answering

from dags import alerts
from dags.embedded import prepare


def answer(**result: Any) -> None:
    print("RESULT " + json.dumps(result), flush=True)


SLEEP = time.sleep


def shorter_sleep(seconds: float) -> None:
    """Sleeps, but not as long as `dag.test` between looking for tasks that can start: a second."""
    SLEEP(0.05 if seconds == 1 else seconds)


alerts.DELIVERY_DELAYS = (0.0, 0.0)
prepare()
answer(ready=True)
for line in sys.stdin:
    request = json.loads(line)
    logical_date = request["logical_date"]
    if logical_date is not None:
        logical_date = datetime.fromisoformat(logical_date).replace(tzinfo=UTC)
    own = dict(os.environ)
    os.environ |= request["environment"]
    seen: dict[str, Any] = {}
    run_has_ended = threading.Event()
    if request["answer"] is not None:
        answerer = answering(request["answer"], seen, run_has_ended)
    importlib.reload(importlib.import_module("dags.installation"))
    # Inside one process, Airflow writes a run's values into the params of DAG and tasks.
    dag = importlib.reload(importlib.import_module(f"dags.{request['dag']}")).dag
    alerts.OWN_ALERT_SECONDS = 0.0  # `dag.test` ends a run after its tasks' callbacks
    if request["answer"] is None:  # who answers relies on the second
        time.sleep = shorter_sleep
    for task_id in request["speechless"]:
        dag.get_task(task_id).on_failure_callback = None
    run = dag.test(
        logical_date=logical_date,
        run_conf=request["conf"],
        mark_success_pattern=request["mark_success"],
    )
    run_has_ended.set()
    time.sleep = SLEEP
    gc.freeze()  # what Airflow has loaded for good, which the collector need not look through
    if request["answer"] is not None:
        answerer.join()  # where nobody was asked, it would answer the next run's question
    os.environ.clear()
    os.environ |= own
    tasks = {t.task_id: t for t in run.get_task_instances()}
    answer(
        run_id=run.run_id,
        state=str(run.state),
        seen=seen,
        tasks={name: str(task.state) for name, task in tasks.items()},
        tries={name: task.try_number for name, task in tasks.items()},
    )
