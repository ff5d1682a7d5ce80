"""Embedded: nights on one machine, through Airflow, without a scheduler.

    python -m dags.embedded 2017-10-30 2017-10-31 [--conf '{"force": true}']

Migrates the metadata database, makes the pool, and runs the DAG once per date with `dag.test`,
which is what `airflow dags test` calls: tasks run one after another in this process with the
states, retries, parameters and asset events of any other run. Pools and `max_active_runs` are the
scheduler's business and have nothing to decide here. One process for all nights, because most
of what Airflow costs is its start: about 5 s once, then 0.2 s a task.

One such process is at work on an Airflow at a time, and none beside a scheduler that may run the
DAG: two would run the same tasks. What a killed one left is ended as failed.

Exit code 0 when all nights succeeded or were skipped; the first that fails ends it with 1.
"""

import fcntl
import json
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

from schemas.collector import at_work
from schemas.command_line import Parser, parse_date
from schemas.errors import UsageError
from schemas.process import die_with_parent

LOCK = ".nights.lock"
"""In Airflow's home, held by the process that runs nights."""


@contextmanager
def alone(home: Path) -> Iterator[bool]:
    """Whether no other process runs nights on the Airflow of this home, and none while it lasts."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def prepare() -> None:
    """Migrates the metadata database and makes the pool of the gate."""
    from airflow.models.pool import Pool
    from airflow.utils.db import initdb

    from dags.nightly_retraining import PROMOTION_POOL

    initdb()
    Pool.create_or_update_pool(
        PROMOTION_POOL, slots=1, description="one gate decision at a time", include_deferred=False
    )


def end_interrupted_runs() -> None:
    """Fails the runs that `dag.test` has begun, to be called while it runs none.

    Such a run stays `running` when its process is killed, and no scheduler ends it: with
    `max_active_runs` it would hold up all that `make ui` starts.
    """
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, State, TaskInstanceState
    from airflow.utils.types import DagRunTriggeredByType

    with create_session() as session:
        for run in DagRun.find(state=DagRunState.RUNNING, session=session):
            if run.triggered_by != DagRunTriggeredByType.TEST:
                continue
            for task in run.get_task_instances(session=session):
                if task.state in State.unfinished - {None}:
                    task.set_state(TaskInstanceState.FAILED, session=session)
            run.set_state(DagRunState.FAILED)


def is_scheduled() -> bool:
    """Whether a scheduler is alive and the DAG not paused: it would run the tasks of a night, too.

    Also those of a run that `dag.test` has begun, once somebody has cleared them.
    """
    from airflow.jobs.job import most_recent_job
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    from dags.nightly_retraining import dag

    with create_session() as session:
        known = session.get(DagModel, dag.dag_id)
        scheduler = most_recent_job("SchedulerJob", session=session)
        is_alive = scheduler is not None and scheduler.is_alive()
        return is_alive and known is not None and not known.is_paused


def run_night(ds: date, conf: dict[str, Any]) -> str:
    """Runs the DAG for one date; returns the run's final state."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    from dags.nightly_retraining import dag

    started = datetime.now(UTC)
    run = dag.test(logical_date=datetime(ds.year, ds.month, ds.day, tzinfo=UTC), run_conf=conf)
    # `dag.test` lets a run start on its logical date, and Airflow's pages would show years.
    with create_session() as session:
        session.get_one(DagRun, run.id).start_date = started
    return str(run.state)


@at_work()
def run_nights(nights: Sequence[date], conf: dict[str, Any]) -> int:
    """Runs the nights in order, telling of each; 1 as soon as one fails.

    Raises:
        UsageError: A scheduler would run the tasks of a night, too.
    """
    for ds in nights:
        if is_scheduled():
            found = "a scheduler that runs nightly_retraining (is `make ui` open?)"
            fix = "pause it in Airflow, or trigger the night there"
            raise UsageError(found, "none, or the DAG paused: both would run its tasks", fix)
        print(f"night {ds}: started", flush=True)
        state = run_night(ds, conf)
        print(f"night {ds}: {state}", flush=True)
        if state != "success":
            return 1
    return 0


def read_conf(text: str) -> dict[str, Any]:
    """Parameters by name.

    Raises:
        ArgumentTypeError: It is no JSON object.
    """
    with suppress(ValueError):
        if isinstance(conf := json.loads(text), dict):
            return conf
    raise ArgumentTypeError(f"{text}, no JSON object")


def main(arguments: Sequence[str]) -> int:
    """Prepares Airflow and runs the nights in order; 1 as soon as one fails."""
    parser = Parser("python -m dags.embedded", description=__doc__)
    read_date = partial(parse_date, "the night")
    parser.add_argument("nights", nargs="*", type=read_date, metavar="YYYY-MM-DD")
    parser.add_argument("--conf", type=read_conf, default={}, help="parameters of the runs, JSON")
    try:
        options = parser.parse_args(arguments)
    except UsageError as error:
        return refused(error)
    die_with_parent()
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()  # as Airflow has it
    if not options.nights:
        prepare()
    with alone(home) as is_alone:
        try:
            if options.nights and not is_alone:
                found = f"another process that runs nights on {home}"
                raise UsageError(found, "one at a time", "wait for it, or end it")
            if options.nights:
                prepare()
            if is_alone and not is_scheduled():
                end_interrupted_runs()
            return run_nights(options.nights, options.conf)
        except UsageError as error:
            return refused(error)


def refused(error: UsageError) -> int:
    """Says it in a line; its exit code."""
    print(f"dags.embedded: UsageError: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
