"""Airflow in a process of its own, with its own database, running the real DAG on toy stages.

Airflow configures logging, signals and warnings when it is imported, so it stays out of the
process that runs the tests. Its start takes seconds: one worker serves all tests.
"""

import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parent.parent.parent
STAGES = (
    "jobs.interactions",
    "jobs.health",
    "jobs.items",
    "jobs.sequences",
    "jobs.item_graph",
    "jobs.soft_targets",
    "trainer.training",
    "trainer.evaluation",
    "trainer.promotion",
    "trainer.recommendations",
    "trainer.report",
    "trainer.freshness",
)
TOY_STAGE = '''"""Toy: does what the test wrote for it, notes that it ran.

Writes:   nothing
"""
import json, os, sys
from pathlib import Path

root, stage = Path(sys.argv[sys.argv.index("--root") + 1]), __spec__.name.split(".")[1]
note = {"stage": stage, "arguments": sys.argv[1:], "environment": dict(os.environ)}
with (root / "ran").open("a") as ran:
    ran.write(json.dumps(note) + "\\n")
toy = root / f"{stage}.py"
exec(toy.read_text() if toy.exists() else "")
'''


def airflow_environment(home: Path, project: Path, root: Path) -> dict[str, str]:
    """Environment of an Airflow that touches nothing outside the test's folders."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PENUMBRA_"))}
    return own | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PENUMBRA_ROOT": str(root),
        "PENUMBRA_SCHEDULE__RETRIES": "1",
        "PENUMBRA_SCHEDULE__RETRY_DELAY_SECONDS": "0",
    }


@pytest.fixture(name="airflow_environment", scope="session")
def airflow_environment_fixture() -> Callable[[Path, Path, Path], dict[str, str]]:
    """The function, for tests that start an Airflow of their own."""
    return airflow_environment


@pytest.fixture(scope="session")
def toy_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose stages are toys."""
    project = tmp_path_factory.mktemp("project")
    for package in ("dags", "schemas"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / package, project / package, ignore=ignore)
    shutil.copy(PROJECT / "pipeline.toml", project)
    for module in STAGES:
        file = project / (module.replace(".", "/") + ".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(TOY_STAGE)
    return project


class Worker:
    """The Airflow process: runs the DAG on request and tells what became of its tasks."""

    def __init__(self, home: Path, project: Path, root: Path) -> None:
        self.root = root
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("airflow_worker.py")],
            cwd=project,
            env=airflow_environment(home, project, root) | {"PYTHONPATH": str(project)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self,
        logical_date: str | None,
        conf: dict[str, Any],
        dag: str = "nightly_retraining",
        environment: dict[str, str] | None = None,
        mark_success: str | None = None,
        answer: dict[str, Any] | None = None,
        speechless: Sequence[str] = (),
    ) -> None:
        """Runs a DAG for a date; `environment` is changed for this run.

        Tasks that match `mark_success` do not run and count as successful. A task that waits for
        a person gets `answer` (tests/dags/answering.py). The `speechless` alert nobody, as those
        whose process is lost.
        """
        assert self.process.stdin is not None
        request: dict[str, Any] = {"logical_date": logical_date, "conf": conf, "dag": dag}
        request |= {"environment": environment or {}, "mark_success": mark_success}
        request |= {"answer": answer, "speechless": list(speechless)}
        line = json.dumps(request)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """State of the run, and per task its state and number of tries; the log beside them."""
        assert self.process.stdout is not None
        log = []
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                return {"log": "".join(log), **json.loads(line.removeprefix("RESULT "))}
            log.append(line)
        raise AssertionError("the worker ended: " + "".join(log[-40:]))

    def ran(self) -> list[dict[str, Any]]:
        """What the toy stages noted, in order."""
        ran = self.root / "ran"
        return [json.loads(line) for line in ran.read_text().splitlines()] if ran.exists() else []


@pytest.fixture(scope="session")
def session_worker(toy_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    home, root = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("root")
    worker = Worker(home, toy_project, root)
    worker.result()
    yield worker
    worker.process.kill()
    worker.process.communicate()


@pytest.fixture
def worker(session_worker: Worker) -> Worker:
    """The worker with an empty root: no toy misbehaves, none has run."""
    for file in session_worker.root.iterdir():
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    return session_worker


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run_night(worker: Worker) -> Run:
    """Runs one night; toys are Python programs by stage, `conf` the parameters.

    With `only`, all other tasks count as successful without running.
    """

    def run_night(
        logical_date: str | None = "2017-10-30",
        toys: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
        only: str | None = None,
        **conf: Any,
    ) -> dict[str, Any]:
        for stage, program in (toys or {}).items():
            (worker.root / f"{stage}.py").write_text(program)
        others = f"(?!{only})[a-z_]+" if only else None
        worker.start(logical_date, conf, environment=environment, mark_success=others)
        return worker.result()

    return run_night


class Webhook:
    """Keeps headers and JSON of what is posted; answers the first `refusals` with `refusal`."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.refusals, self.refusal = 0, 503
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append((dict(self.headers), json.loads(body)))
                is_refused = len(receiver.received) <= receiver.refusals
                self.send_response(receiver.refusal if is_refused else 200)
                self.send_header("Location", "/login")  # where a redirect leads
                self.end_headers()

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        address = f"http://127.0.0.1:{self.server.server_port}/hook"
        connection = {"conn_type": "http", "host": address, "password": "s3cret"}
        self.environment = {
            "PENUMBRA_ALERTS__CHANNEL": "webhook",
            "AIRFLOW_CONN_PENUMBRA_WEBHOOK": json.dumps(connection),
        }


class Mailbox:
    """Keeps the messages of a mail server that accepts everything and offers no encryption."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        receiver = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 test\r\n")
                for line in self.rfile:
                    verb = line.strip().upper()
                    if verb == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        lines = iter(self.rfile.readline, b".\r\n")
                        receiver.received.append(message_from_bytes(b"".join(lines)))
                    self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                    if verb == b"QUIT":
                        return

        self.server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
        plain = {"disable_ssl": True, "disable_tls": True, "from_email": "penumbra@example.com"}
        port = self.server.server_address[1]
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": plain}
        self.environment = {
            "PENUMBRA_ALERTS__CHANNEL": "smtp",
            "PENUMBRA_ALERTS__TO": "a@example.com, b@example.com",
            "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(connection),
        }


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A web server on loopback, and the environment that sends alerts to it."""
    webhook = Webhook()
    with serving(webhook.server):
        yield webhook


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """A mail server on loopback, and the environment that sends alerts to it."""
    mailbox = Mailbox()
    with serving(mailbox.server):
        yield mailbox
