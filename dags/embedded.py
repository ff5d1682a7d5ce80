"""Embedded: nights on one machine, through Airflow, without a scheduler.

    python -m dags.embedded 2017-10-30 2017-10-31 [--conf '{"force": true}']

Migrates the metadata database, makes the pool, and runs the DAG once per date with `dag.test`,
which is what `airflow dags test` calls: tasks run one after another in this process with the
states, retries, parameters and asset events of any other run. Pools and `max_active_runs` are the
scheduler's business and have nothing to decide here. One process for all nights, because most
of what Airflow costs is its start: about 5 s once, then 0.2 s a task.

Exit code 0 when all nights succeeded or were skipped; the first that fails ends it with 1.
"""

import json
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

from schemas.collector import at_work
from schemas.command import Parser, die_with_parent, parse_date
from schemas.errors import UsageError


def prepare() -> None:
    """Migrates the metadata database and makes the pool of the gate."""
    from airflow.models.pool import Pool
    from airflow.utils.db import initdb

    from dags.nightly_retraining import PROMOTION_POOL

    initdb()
    Pool.create_or_update_pool(
        PROMOTION_POOL, slots=1, description="one gate decision at a time", include_deferred=False
    )


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
    """Runs the nights in order, telling of each; 1 as soon as one fails."""
    for ds in nights:
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
        print(f"dags.embedded: UsageError: {error}", file=sys.stderr)
        return error.exit_code
    die_with_parent()
    prepare()
    return run_nights(options.nights, options.conf)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
