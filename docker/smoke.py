"""Smoke: two short nights of the demo in containers of their own, one of them with crashes.

    python docker/smoke.py          `make smoke`

Starts docker-compose.yml under another name and on free ports, with secrets of its own, beside
whatever `make up` runs. Then:

1. a night through Airflow's REST interface: Spark stages on the cluster's workers, training, gate,
   champion in MLflow on Postgres, recommendations;
2. the next night, in which a Spark worker and, during training, the scheduler are killed;
3. both nights again without cluster, scheduler and servers, as `make demo` runs them: the tables
   must have equal content, and the metrics equal values.

Removes all it made but the image, penumbra:smoke, and checks that nothing is left. Exit code 0
where every check held.
"""

import json
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import make_secrets
from airflow_rest import Airflow, fetch
from memory import Memory
from stack import PROJECT_FOLDER, Stack, StackError, lines_of

NIGHTS = ("2017-10-30", "2017-10-31")
DAG = "nightly_retraining"
SPARK_STAGES = ("interactions", "items", "sequences", "item_graph", "soft_targets")
TABLES_WITH_TIMES = {"promotions"}
"""Whose rows say when they were decided: no two runs agree on that."""
ROWS_NEEDED = ("interactions", "items", "soft_targets", "checkpoints", "recommendations")
SECONDS_OF_A_NIGHT = 3600.0
SECONDS_INTO_TRAINING = 4.0
EMBEDDED = "/tmp/embedded"
BUILD = ("PYTHON_IMAGE", "POSTGRES_IMAGE", "PIP_EXTRA_INDEX_URL", "PENUMBRA_UID")
"""What this host needs to build, as .env has it; the image is another than that of `make up`."""
LOCAL = {
    "PENUMBRA_REGISTRY__TRACKING_URI": "",
    "PENUMBRA_SCHEDULE__START_DATE": '"2000-01-01"',
    "PENUMBRA_SPARK__CONF": '{ "spark.ui.enabled" = "false" }',
    "PENUMBRA_SPARK__MASTER": "local[2]",
}
"""What makes the scheduler's container a machine on its own."""


class Checks:
    """Says what held and what did not, with the time since the start."""

    def __init__(self) -> None:
        self.started, self.failed = time.monotonic(), 0

    def say(self, text: str) -> None:
        """Prints a line."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        print(f"{minutes:3d}:{seconds:02d}  {text}", flush=True)

    def check(self, holds: bool, text: str) -> None:
        """Prints whether something holds; goes on either way."""
        self.failed += not holds
        self.say(f"{'ok    ' if holds else 'FAILED'} {text}")


def main() -> int:
    """Runs the smoke test."""
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="penumbra-smoke-") as folder:
        try:
            with running_stack(Path(folder), checks) as stack:
                smoke(stack, Path(folder), checks)
        except KeyboardInterrupt:
            return 130
        except (StackError, OSError) as error:
            print(f"docker/smoke.py: {type(error).__name__}: {error}", file=sys.stderr)
            return error.exit_code if isinstance(error, StackError) else 1
    checks.say(f"{checks.failed} checks failed" if checks.failed else "everything held")
    return 1 if checks.failed else 0


@contextmanager
def running_stack(folder: Path, checks: Checks) -> Iterator[Stack]:
    """A stack of its own, healthy; removed at the end, and its logs kept where it went wrong."""
    env_file, settings = folder / "env", folder / "pipeline.toml"
    env_file.write_text("".join(lines_of(PROJECT_FOLDER / ".env", BUILD)))
    make_secrets.main([str(env_file)])
    now = datetime.now(UTC)
    # No interval of this schedule ends within 12 hours: only the runs triggered here take place.
    cron = f"{now.minute} {(now.hour + 12) % 24} * * *"
    schedule = f'cron = "{cron}"\nstart_date = "{now.date()}"\nretry_delay_seconds = 1.0\n'
    text = Path(__file__).with_name("smoke.toml").read_text()
    settings.write_text(f"{text}\n[schedule]\n{schedule}")
    folder.chmod(0o755)
    ports = dict(zip(("AIRFLOW_PORT", "MLFLOW_PORT", "SPARK_PORT"), free_ports(3), strict=True))
    variables = {"PENUMBRA_EVENTS": "events", "PENUMBRA_SETTINGS": str(settings), **ports}
    variables |= {
        "PENUMBRA_TAG": "smoke",
        "AIRFLOW_URL": f"http://127.0.0.1:{ports['AIRFLOW_PORT']}",
    }
    stack = Stack(f"penumbra-smoke-{secrets.token_hex(3)}", env_file, variables)
    try:
        stack.build()
        checks.say("built")
        stack.compose("up", "--detach")
        stack.wait()
        checks.say("all services are healthy")
        yield stack
    finally:
        try:
            if checks.failed or sys.exc_info()[0]:
                log = PROJECT_FOLDER / "var" / "logs" / "smoke.log"
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text(stack.compose("logs", "--no-color", output=True))
                checks.say(f"what the containers said: {log}")
        finally:  # also where nobody listens any more
            stack.down()
        checks.check(not stack.left_behind(), "nothing is left of containers, networks and volumes")


def smoke(stack: Stack, folder: Path, checks: Checks) -> None:
    """All three parts, on a healthy stack."""
    password = re.search(r"AIRFLOW_ADMIN_PASSWORD=(.*)", (folder / "env").read_text())
    assert password
    airflow = Airflow(stack.address("airflow-api-server", 8080), "admin", password[1], DAG)
    stack.execute("airflow-scheduler", "python", "-m", "demo.load_events", *where("/data"))
    checks.say("events are loaded")
    alone = ("sh", "-c", "cd /tmp && python -c 'import pyspark, numba, jobs' 2>&1 || true")
    said = stack.execute("spark-worker-1", *alone)
    checks.check(
        "No module named 'jobs'" in said, "workers have the packages, not the stages' code"
    )
    airflow.unpause(time.monotonic() + 120)
    with Memory(stack) as memory:
        run_night(stack, airflow, checks, NIGHTS[0], {})
        crashes: dict[str, Callable[[dict[str, Any]], bool]] = {
            "spark-worker-1": lambda tasks: bool(working_executors(stack)),
            "airflow-scheduler": lambda tasks: (
                seconds_running(tasks["training"]) > SECONDS_INTO_TRAINING
            ),
        }
        tasks = run_night(stack, airflow, checks, NIGHTS[1], crashes)
        checks.check(tasks["training"]["try_number"] > 1, "training was tried again")
        found = facts(stack, "/data")
    for service, gigabytes in memory.peaks.items():
        checks.say(f"       {service:<22}{gigabytes:5.2f} GiB at most")
    check_registry(stack, checks)
    for ds in NIGHTS:
        rows = found[ds]["rows"]
        checks.check(all(rows.get(t) for t in ROWS_NEEDED), f"{ds} has {len(rows)} tables: {rows}")
    environment = {"PENUMBRA_SPARK__DRIVER_MEMORY": "1g", **LOCAL}
    run = ("python", "-m", "demo.run", *where(EMBEDDED))
    stack.execute("airflow-scheduler", *run, **environment)
    checks.say("the embedded nights are done")
    compare(found, facts(stack, EMBEDDED), checks)


def run_night(
    stack: Stack,
    airflow: Airflow,
    checks: Checks,
    ds: str,
    crashes: dict[str, Callable[[dict[str, Any]], bool]],
) -> dict[str, Any]:
    """Triggers a night and follows it to its end; kills services when their time has come."""
    started, run_id, due, tasks = time.monotonic(), airflow.trigger(ds), dict(crashes), {}
    for tasks in airflow.follow(run_id, started + SECONDS_OF_A_NIGHT):
        if due and next(iter(due.values()))(tasks):
            service = next(iter(due))
            del due[service]
            busy = [name for name, task in tasks.items() if task["state"] == "running"]
            stack.crash(service)
            checks.say(f"killed {service} while {', '.join(busy)} ran")
    seconds = time.monotonic() - started
    spent = ", ".join(f"{name} {task['duration'] or 0:.0f}" for name, task in tasks.items())
    state = airflow.state(run_id)
    checks.check(state == "success", f"night {ds}: {state} after {seconds:.0f} s ({spent})")
    if crashes:
        checks.check(not due, f"{len(crashes)} services were killed in it")
    for service in crashes:
        stack.wait()
        restarts = stack.container(service).restarts
        checks.check(restarts > 0, f"{service} was started again by its restart policy")
    done = spark(stack)["completedapps"]
    ran = [app["name"].removeprefix("penumbra ") for app in done]
    expected = set(SPARK_STAGES) <= set(ran)
    checks.check(expected, f"the Spark master has seen {len(ran)} stages on its workers' cores")
    return tasks


def check_registry(stack: Stack, checks: Checks) -> None:
    """Asks MLflow who is champion, and Postgres where that is written."""
    address = f"{stack.address('mlflow', 5000)}/api/2.0/mlflow/registered-models/alias"
    champion = fetch(f"{address}?name=penumbra&alias=champion")["model_version"]
    said = f"version {champion['version']}, {champion['source']}"
    checks.check(champion["status"] == "READY", f"MLflow has a champion: {said}")
    query = "select count(*) from registered_model_aliases where alias = 'champion'"
    psql = ("psql", "-U", "postgres", "-d", "mlflow", "-Atc", query)
    checks.check(stack.execute("postgres", *psql).strip() == "1", "and Postgres holds its alias")


def compare(found: dict[str, Any], expected: dict[str, Any], checks: Checks) -> None:
    """Checks that containers and embedded nights agree."""
    for ds in NIGHTS:
        ours, theirs = found[ds]["digests"], expected[ds]["digests"]
        for table in sorted(set(ours) | set(theirs)):
            if table not in TABLES_WITH_TIMES:
                one, other = ours.get(table, "none")[:12], theirs.get(table, "none")[:12]
                checks.check(one == other, f"{ds} {table:<16} containers {one} embedded {other}")
        metrics, others = found[ds]["metrics"], expected[ds]["metrics"]
        name = "candidate new ndcg@10"
        said = f"{len(metrics)} metrics are equal, such as {name} = {metrics.get(name)}"
        checks.check(bool(metrics) and metrics == others, f"{ds} {said}")
        verdicts = found[ds]["verdict"], expected[ds]["verdict"]
        checks.check(verdicts[0] == verdicts[1], f"{ds} the gate says {verdicts[0]} in both")


def facts(stack: Stack, root: str) -> dict[str, Any]:
    """What the nights under a root have published."""
    command = ("python", "docker/facts.py", root, *NIGHTS)
    found: dict[str, Any] = json.loads(stack.execute("airflow-scheduler", *command))
    return found


def where(root: str) -> tuple[str, ...]:
    """The arguments of the demo's programs."""
    return ("--root", root, "--settings", "/settings/pipeline.toml")


def spark(stack: Stack) -> dict[str, Any]:
    """What the page of the Spark master says."""
    found: dict[str, Any] = fetch(f"{stack.address('spark-master', 8080)}/json/")
    return found


def working_executors(stack: Stack) -> list[str]:
    """Applications that hold cores of workers just now."""
    return [app["name"] for app in spark(stack)["activeapps"] if app["cores"]]


def seconds_running(task: dict[str, Any]) -> float:
    """How long a task has been running; 0 where it is not."""
    if task["state"] != "running" or not task["start_date"]:
        return 0.0
    started = datetime.fromisoformat(task["start_date"].replace("Z", "+00:00"))
    return (datetime.now(UTC) - started).total_seconds()


def free_ports(number: int) -> Sequence[str]:
    """Ports on loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    os.umask(0o022)
    for number in (signal.SIGTERM, signal.SIGHUP):  # the containers go, as after Ctrl-C
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
