"""A real Airflow without containers: api-server, scheduler and dag-processor on loopback.

What `make ui` starts, with a schedule and delays of its own, over Postgres: SQLite refuses the one
of two writers who has read before, as `airflow backfill create` does beside the scheduler. One
serves all tests of this folder.
"""

import json
import random
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy

from demo.airflow_home import HOME_FOLDER, PASSWORDS_FILE, PROJECT, environment
from demo.ui import AIRFLOW_PARTS, LOOPBACK, Server

DAG = "nightly_retraining"
START_SECONDS, NIGHT_SECONDS, STOP_SECONDS = 240.0, 600.0, 10.0
"""How long anything may take on a loaded machine; nothing waits longer than it has to."""
POLL_SECONDS, POLL_RUN_SECONDS = 0.5, 2.0
"""Between looks at processes, and at the state of a run, which costs a server more."""
RETRY_DELAY_SECONDS = 3.0
HEARTBEAT_SECONDS = 30
"""Silence after which the scheduler takes a task for lost; its supervisor speaks every 5 s."""

NIGHT = datetime.now(UTC) - timedelta(hours=36)
"""Start of the last whole interval of the test's schedule, which changes 12 hours from now."""
SCHEDULED = NIGHT.date()
"""The day of the one run that the schedule makes by itself. The others are before it."""
FIRST, SECOND = (SCHEDULED - timedelta(days=n) for n in (2, 1))

SETTINGS = f"""
[events]
history_days = 5
[health]
mode = "dry_run"
[split]
holdout_days = 1
validation_days = 1
[items]
min_support = 1
[training]
backbone = "mlp"
width = 8
num_blocks = 1
max_length = 20
epochs = 1
num_threads = 1
[gate]
floor = 0.0
popularity_margin = -1.0
item_knn_margin = -1.0
champion_margin = 1.0
max_coverage_drop = 1.0
min_users = 10
canary_users = 0
[spark]
master = "local[2]"
driver_memory = "1g"

[spark.conf]
"spark.driver.extraJavaOptions" = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
# For so few rows compiling takes longer than what it saves; elsewhere Spark compiles.
"spark.sql.codegen.wholeStage" = "false"
"spark.sql.codegen.factoryMode" = "NO_CODEGEN"
[schedule]
cron = "{NIGHT.minute} {NIGHT.hour} * * *"
retries = 3
retry_delay_seconds = {RETRY_DELAY_SECONDS}
turn_seconds = 10.0
"""


class Airflow:
    """The running Airflow: its REST interface, its command, its logs, its stages' processes."""

    scheduled, first, second = SCHEDULED, FIRST, SECOND
    retry_delay_seconds = RETRY_DELAY_SECONDS

    def __init__(self, root: Path, settings_file: Path, database: str) -> None:
        with socket.socket() as listener:
            listener.bind((LOOPBACK, 0))
            port = int(listener.getsockname()[1])
        inherited = environment(root, settings_file, port)
        own = {k: v for k, v in inherited.items() if not k.startswith("PENUMBRA_")}
        self.root, self.home, self.settings_file = root, root / HOME_FOLDER, settings_file
        self.address, self.password = f"http://{LOOPBACK}:{port}", secrets.token_hex(16)
        self.environment = own | {
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
            "AIRFLOW__CORE__PARALLELISM": "3",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1.0",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_SECONDS),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": "",  # needs a driver, for nothing here
            "PENUMBRA_ROOT": str(root),
            "PENUMBRA_SETTINGS": str(settings_file),
        }
        self.servers: list[Server] = []
        self._token = ""

    def start(self) -> None:
        """Returns when the REST interface answers and the DAG is known, paused."""
        (self.home / PASSWORDS_FILE).write_text(json.dumps({"admin": self.password}))
        self.command(sys.executable, "-m", "dags.embedded")
        for part in AIRFLOW_PARTS:
            command = [sys.executable, "-m", "airflow", *part]
            log = self.root / "logs" / f"{part[0]}.log"
            self.servers.append(Server(part[0], command, self.environment, log))
        self.until(self._is_ready, "no DAG behind the REST interface", START_SECONDS)

    def stop(self) -> None:
        """Ends all servers, and what a killed test has left of their tasks."""
        children = [
            child
            for server in self.servers
            if not server.has_ended()
            for child in psutil.Process(server.process.pid).children(recursive=True)
        ]
        for server in self.servers:
            server.stop(time.monotonic())
        for child in children:
            if child.is_running():
                child.kill()

    def command(self, *command: str) -> str:
        """Runs a program in this Airflow's environment; returns what it printed."""
        done = subprocess.run(
            command, cwd=PROJECT, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stderr}"
        return done.stdout

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Calls `/api/v2` with a token; returns the answer's JSON."""
        if not self._token:
            user = {"username": "admin", "password": self.password}
            self._token = self._call("POST", "/auth/token", user)["access_token"]
        return self._call(method, f"/api/v2{path}", body)

    def trigger(self, **conf: Any) -> str:
        """Triggers the DAG by REST, as its form does; returns the run's id."""
        body = {"logical_date": None, "conf": conf}
        return str(self.call("POST", f"/dags/{DAG}/dagRuns", body)["dag_run_id"])

    def run(self, run_id: str) -> dict[str, Any]:
        """State and times of one run."""
        found: dict[str, Any] = self.call("GET", f"/dags/{DAG}/dagRuns/{run_id}")
        return found

    def runs(self) -> list[dict[str, Any]]:
        """All runs of the DAG, in the order in which they were started."""
        found = self.call("GET", f"/dags/{DAG}/dagRuns?order_by=start_date&limit=100")
        return list(found["dag_runs"])

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        """The newest try of each task of a run, by the task's name."""
        found = self.call("GET", f"/dags/{DAG}/dagRuns/{run_id}/taskInstances?limit=100")
        return {task["task_id"]: task for task in found["task_instances"]}

    def tries(self, run_id: str, task: str) -> list[dict[str, Any]]:
        """All tries of one task, oldest first."""
        path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/{task}/tries"
        found = self.call("GET", path)["task_instances"]
        return sorted(found, key=lambda one: int(one["try_number"]))

    def finished(self, run_id: str) -> dict[str, Any]:
        """Waits for the end of a run, whatever that is."""

        def ended() -> dict[str, Any] | None:
            found = self.run(run_id)
            return found if found["state"] in ("success", "failed") else None

        return self.until(
            ended, f"{run_id} has no end", NIGHT_SECONDS, run_id, every=POLL_RUN_SECONDS
        )

    def stage(self, module: str, ds: date, run_id: str) -> psutil.Process:
        """Waits for the process of a stage; returns it while it runs."""

        def running() -> psutil.Process | None:
            for process in psutil.process_iter(["cmdline"]):
                words = process.info["cmdline"] or []
                if words[1:5] == ["-m", module, "--ds", str(ds)] and str(self.root) in words:
                    return process
            return None

        return self.until(running, f"no {module} of {ds} runs", NIGHT_SECONDS, run_id)

    def until(
        self,
        look: Callable[[], Any],
        otherwise: str,
        seconds: float,
        run_id: str = "",
        every: float = POLL_SECONDS,
    ) -> Any:
        """Polls until `look` finds something; fails with logs where it does not."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            for server in self.servers:
                assert not server.has_ended(), f"{server.name} ended:\n{_tail(server.log)}"
            assert time.monotonic() < deadline, f"{otherwise}\n{self.explain(run_id)}"
            time.sleep(every)
        return found

    def explain(self, run_id: str = "") -> str:
        """States of a run's tasks and the ends of the logs of those that failed or go on."""
        if not run_id:
            return "\n".join(f"{server.name}:\n{_tail(server.log)}" for server in self.servers)
        tasks = self.tasks(run_id)
        words = [f"{run_id}: {self.run(run_id)['state']}"]
        words += [f"  {n}: {t['state']}, try {t['try_number']}" for n, t in tasks.items()]
        for name, task in tasks.items():
            if task["state"] not in (None, "success", "upstream_failed"):
                for log in self._logs(run_id, name):
                    words.append(f"{name}, {log.name}:\n{_tail(log)}")
        return "\n".join(words)

    def span(self, run_id: str) -> tuple[datetime, datetime, str] | None:
        """From the start of a run's first stage to the last word of any; None without a stage."""
        starts, ends = [], []
        for log in self._logs(run_id):
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            started = [line for line in lines if " started: " in line.get("event", "")]
            if started:
                starts.append(datetime.fromisoformat(started[0]["timestamp"]))
                ends.append(datetime.fromisoformat(lines[-1]["timestamp"]))
        return (min(starts), max(ends), run_id) if starts else None

    def _logs(self, run_id: str, task: str = "*") -> list[Path]:
        folder = self.home / "logs" / f"dag_id={DAG}" / f"run_id={run_id}"
        return sorted(folder.glob(f"task_id={task}/attempt=*.log"))

    def _is_ready(self) -> bool:
        try:
            return bool(self.call("GET", f"/dags/{DAG}")["is_paused"])
        except urllib.error.HTTPError as error:
            assert error.code == 404, f"{error}: {error.read()!r}"
        except OSError:
            pass
        return False

    def _call(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            self.address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def _tail(log: Path) -> str:
    """The last lines of a log, without the fields nobody reads."""
    lines = log.read_text(errors="replace").splitlines()[-60:] if log.exists() else ["(no log)"]
    words = []
    for line in lines:
        try:
            entry = json.loads(line)
            errors = (e["exc_value"] for e in entry.get("error_detail", []))
            words.append(" ".join(["   ", entry["event"], *errors]))
        except (ValueError, KeyError, TypeError):
            words.append(f"    {line}")
    return "\n".join(words)


def write_events(root: Path) -> None:
    """Two actions a day of 40 users among 20 items; the scheduled day lacks a column."""
    choose = random.Random(17)
    for day in (SCHEDULED - timedelta(days=n) for n in range(8)):
        folder = root / "events" / f"ds={day}"
        folder.mkdir(parents=True)
        column = "thing" if day == SCHEDULED else "item_id"
        rows = [
            {
                "user_id": f"user-{user}",
                column: f"item-{min(choose.randrange(20), choose.randrange(20))}",
                "event_time": f"{day}T{hour:02}:{user:02}:00Z",
            }
            for user in range(40)
            for hour in (9, 18)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "events.jsonl").write_text(text)


@pytest.fixture(scope="session")
def airflow(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """Started, over events of eight days; the DAG is paused."""
    engine = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("create database scheduler"))
    engine.dispose()
    database = postgres.replace("/postgres?", "/scheduler?")
    root = tmp_path_factory.mktemp("scheduler")
    settings_file = root / "settings.toml"
    settings_file.write_text(SETTINGS)
    write_events(root)
    airflow = Airflow(root, settings_file, database)
    try:
        airflow.start()
        yield airflow
    finally:
        airflow.stop()
