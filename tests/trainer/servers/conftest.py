"""Servers of this folder's tests, on loopback: Postgres, MLflow's tracking server over it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from schemas.command import Night
from schemas.settings import Settings

LOOPBACK = "127.0.0.1"
START_SECONDS = 120.0


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


class Server:
    """A server in a process group of its own, whose output goes to a log."""

    def __init__(self, command: Sequence[str], port: int, path: str, log: Path) -> None:
        self.command, self.log = command, log
        self.address = f"http://{LOOPBACK}:{port}"
        self._ready = self.address + path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers, within a minute or two."""
        programs = str(Path(sys.executable).parent)
        environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",  # MLflow calls uvicorn by name
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self._ready, timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"no answer from {self._ready}:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL to it and all its workers; one that is dead stays dead."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="session")
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Makes servers of the `mlflow` command, and kills them in the end."""
    made: list[Server] = []

    def make_server(*arguments: str, ready: str) -> Server:
        port = free_port()
        command = [sys.executable, "-m", "mlflow", *arguments]
        command += ["--host", LOOPBACK, "--port", str(port)]
        log = tmp_path_factory.mktemp("server") / "log"
        made.append(Server(command, port, ready, log))
        made[-1].start()
        return made[-1]

    yield make_server
    for server in made:
        server.kill()


@pytest.fixture(scope="session")
def tracking_server(
    postgres: str, make_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> Server:
    """MLflow's own server; it keeps the artifacts too, so that a client needs nothing else."""
    artifacts = str(tmp_path_factory.mktemp("artifacts"))
    arguments = ["server", "--backend-store-uri", postgres, "--artifacts-destination", artifacts]
    return make_server(*arguments, "--workers", "1", ready="/health")


@pytest.fixture
def settings(tracking_server: Server, tmp_path: Path) -> Settings:
    """Of a registered model that no other test has."""
    name = tmp_path.name
    registry = {"tracking_uri": tracking_server.address, "experiment": name, "model_name": name}
    return Settings.model_validate({"registry": registry})


@pytest.fixture
def registry(tmp_path: Path, settings: Settings) -> Any:
    """An empty registry behind the server."""
    from trainer.registry import Registry

    return Registry(tmp_path, settings)


@pytest.fixture
def make_night(make_night: Callable[..., Night], settings: Settings) -> Callable[..., Night]:
    """A night that registers with the server."""

    def make_night_there(given: Settings, *arguments: Any) -> Night:
        return make_night(given.model_copy(update={"registry": settings.registry}), *arguments)

    return make_night_there
