"""UI: Airflow and MLflow on loopback over the same root, until Ctrl-C.

    make ui [ROOT=var]

The parts of Airflow are those of `airflow standalone`, without its log servers, which listen on
all interfaces and which one host does not need, and without the triggerer, as no task defers. The
DAG is paused, so that no night starts by itself; unpause it to trigger one from the form, and
give the day as `ds`. Unpaused, it also starts yesterday's night, which fails without its events,
and `make night` is refused, as both would run the same tasks.
"""

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from demo.airflow_home import HOME_FOLDER, PASSWORDS_FILE, PROJECT, environment
from demo.load_events import SETTINGS_FILE
from schemas.command_line import Parser
from schemas.errors import PenumbraError
from schemas.process import interrupt_when_told_to_end
from schemas.settings import Settings, load

LOOPBACK, USER = "127.0.0.1", "admin"
AIRFLOW_PARTS = (
    ("api-server", "--workers", "1"),
    ("scheduler", "--skip-serve-logs"),
    ("dag-processor",),
)
START_SECONDS = 180.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.5
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks loopback itself, whatever proxy the environment names."""


class Server:
    """One server in a process group of its own, its output in a log."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def has_ended(self) -> bool:
        """Whether the server is no more."""
        return self.process.poll() is not None

    def ask_to_end(self) -> None:
        """Sends SIGTERM: SIGINT is ignored by what a shell starts in the background."""
        self._signal(signal.SIGTERM)

    def stop(self, deadline: float) -> None:
        """Waits for its end, and kills what is left of it by then (in monotonic seconds)."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def main(arguments: Sequence[str]) -> int:
    """Serves until Ctrl-C; 1 where a server does not start or ends by itself."""
    interrupt_when_told_to_end()
    servers: list[Server] = []
    try:
        options = _parse(arguments)
        root = options.root.expanduser().resolve()
        settings_file = options.settings.expanduser().resolve()
        settings = load(settings_file)
        home = environment(root, settings_file, options.airflow_port)
        # One for all parts, new every time: they sign what they say to each other.
        home["AIRFLOW__API_AUTH__JWT_SECRET"] = secrets.token_hex(32)
        home["AIRFLOW__API__SECRET_KEY"] = secrets.token_hex(32)
        addresses = _start(servers, root, settings, home, options)
        return _serve(servers, addresses, root)
    except PenumbraError as error:
        print(f"demo.ui: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(servers)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser("python -m demo.ui")
    parser.add_argument("--root", type=Path, default=Path("var"), help="folder of all tables (var)")
    parser.add_argument("--settings", type=Path, default=SETTINGS_FILE)
    parser.add_argument("--airflow-port", type=int, default=8080)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    return parser.parse_args(arguments)


def _start(
    servers: list[Server],
    root: Path,
    settings: Settings,
    home: Mapping[str, str],
    options: argparse.Namespace,
) -> dict[str, str]:
    """Starts the servers; returns the addresses that tell when each is ready, by name."""
    logs, passwords = root / "logs", root / HOME_FOLDER / PASSWORDS_FILE
    choose_password(passwords)
    prepare = [sys.executable, "-m", "dags.embedded"]
    subprocess.run(prepare, cwd=PROJECT, env=home, check=True, stdout=subprocess.DEVNULL)
    for part in AIRFLOW_PARTS:
        command = [sys.executable, "-m", "airflow", *part]
        servers.append(Server(f"Airflow {part[0]}", command, home, logs / f"ui-{part[0]}.log"))
    health = f"http://{LOOPBACK}:{options.airflow_port}/api/v2/monitor/health"
    addresses = {servers[0].name: health}
    if settings.registry.tracking_uri:
        return addresses
    (root / "mlflow").mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{root / 'mlflow' / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--host", LOOPBACK, "--port", str(options.mlflow_port), "--workers", "1"]
    command += ["--default-artifact-root", str(root / "mlflow" / "artifacts")]
    servers.append(Server("MLflow", command, home, logs / "ui-mlflow.log"))
    addresses["MLflow"] = f"http://{LOOPBACK}:{options.mlflow_port}/health"
    return addresses


def choose_password(file: Path) -> None:
    """Gives the one user a password, kept: Airflow would make one up and print it to its log."""
    if not (file.exists() and file.stat().st_size):
        file.touch(mode=0o600)
        file.write_text(json.dumps({USER: secrets.token_urlsafe(12)}))


def _serve(servers: Sequence[Server], addresses: Mapping[str, str], root: Path) -> int:
    console = Console()
    waiting = dict(addresses)
    deadline = time.monotonic() + START_SECONDS
    while True:
        for server in servers:
            if server.has_ended():
                ended = f"[red]{server.name} ended[/]; see {server.log}"
                console.print(ended, highlight=False, soft_wrap=True)
                return 1
            if server.name in waiting and _answers(waiting[server.name]):
                _announce(server, waiting.pop(server.name), root, console)
                if not waiting:
                    console.print("Ctrl-C stops everything.")
        if waiting and time.monotonic() > deadline:
            late = f"[red]{', '.join(waiting)} did not start[/]; see {root / 'logs'}"
            console.print(late, highlight=False, soft_wrap=True)
            return 1
        time.sleep(POLL_SECONDS)


def _announce(server: Server, address: str, root: Path, console: Console) -> None:
    name, base = server.name.split()[0], "/".join(address.split("/")[:3])
    console.print(f"{name:<8} {base}   log: {server.log}", highlight=False, soft_wrap=True)
    if server.name.startswith("Airflow"):
        where = root / HOME_FOLDER / PASSWORDS_FILE
        console.print(f"         user {USER}, password in {where}", highlight=False, soft_wrap=True)


def _stop(servers: Sequence[Server]) -> None:
    if servers:  # whoever asks twice would leave what does not end by itself
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    for server in servers:
        server.ask_to_end()
    deadline = time.monotonic() + STOP_SECONDS
    for server in servers:
        server.stop(deadline)


def _answers(address: str) -> bool:
    try:
        with OPENER.open(address, timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
