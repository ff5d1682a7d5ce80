"""Stack: builds and starts docker-compose.yml, and waits until it works.

    python docker/stack.py up       `make up`
    python docker/stack.py down     `make down`: removes containers, network and volumes

Needs Docker, Compose (v2 or v1.29) and Python, nothing of the project's environment.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
SECONDS_TO_START = 600.0
SECONDS_BETWEEN_LOOKS = 2.0
NOT_AVAILABLE, NO_INPUT, USAGE = 69, 66, 64
PROJECT_VARIABLE = "COMPOSE_PROJECT_NAME"
DEFAULT_PORT = "8080"
"""Airflow's, as docker-compose.yml has it."""


class StackError(Exception):
    """The containers are not as they must be; says what was found, expected, and where to look."""

    def __init__(self, found: str, expected: str, fix: str, exit_code: int = 1) -> None:
        super().__init__(f"found {found}; expected {expected}; fix: {fix}")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Container:
    """One container of the stack, as Docker knows it."""

    id: str
    service: str
    state: str
    health: str
    exit_code: int
    restarts: int

    @property
    def is_ready(self) -> bool:
        """Healthy, or ended as it should."""
        ended_well = self.state == "exited" and self.exit_code == 0
        return ended_well or (self.state == "running" and self.health == "healthy")


class Stack:
    """The services of docker-compose.yml under one project's name.

    Args:
        project: Prefix of all containers, volumes and networks.
        env_file: The secrets.
        environment: Further variables of docker-compose.yml.
    """

    def __init__(self, project: str, env_file: Path, environment: Mapping[str, str]) -> None:
        self.project, self.env_file = project, env_file
        self.environment = {**os.environ, **environment}
        self.command = [*compose_command(), "--project-name", project]
        self.command += ["--env-file", str(env_file), "--file", "docker-compose.yml"]

    def compose(self, *arguments: str, output: bool = False) -> str:
        """Runs Compose; returns what it printed, where that is asked for.

        Raises:
            StackError: It failed.
        """
        pipe = subprocess.PIPE if output else None
        ended = subprocess.run(
            [*self.command, *arguments],
            cwd=PROJECT_FOLDER,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            text=True,
        )
        if ended.returncode:
            what = f"compose {' '.join(arguments)} ended with {ended.returncode}"
            raise StackError(what, "0", "see its output above")
        return ended.stdout or ""

    def build(self) -> None:
        """Builds the image, naming the commit of the code in it."""
        git = ["git", "-C", str(PROJECT_FOLDER), "describe", "--always", "--abbrev=40"]
        try:
            found = subprocess.run(
                [*git, "--dirty", "--exclude=*"], stdout=subprocess.PIPE, text=True
            )
            if commit := found.stdout.strip():
                self.environment.setdefault("PENUMBRA_COMMIT", commit)
        except FileNotFoundError:
            pass
        self.compose("build", "spark-master")

    def containers(self) -> list[Container]:
        """All containers of the services, running or not, by service."""
        of_project = f"label=com.docker.compose.project={self.project}"
        ids = docker("ps", "--all", "--quiet", "--no-trunc", "--filter", of_project).split()
        found = json.loads(docker("inspect", *ids)) if ids else []
        services = [one for one in found if _label(one, "oneoff") != "True"]
        return sorted(map(_container, services), key=lambda one: one.service)

    def container(self, service: str) -> Container:
        """The container of a service."""
        (found,) = [one for one in self.containers() if one.service == service]
        return found

    def wait(self, seconds: float = SECONDS_TO_START) -> None:
        """Returns when every service is healthy or has done its work.

        Raises:
            StackError: One is not, after so many seconds.
        """
        deadline = time.monotonic() + seconds
        while waiting := [one for one in self.containers() if not one.is_ready]:
            if time.monotonic() > deadline:
                found = ", ".join(f"{one.service} {one.state} {one.health}" for one in waiting)
                logs = f"docker logs of {', '.join(one.service for one in waiting)}"
                raise StackError(found, f"all healthy in {seconds:.0f} s", logs)
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def execute(self, service: str, *command: str, **variables: str) -> str:
        """What a command in a running container prints."""
        settings = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        return docker("exec", *settings, self.container(service).id, *command)

    def crash(self, service: str) -> None:
        """Kills the service's process with SIGKILL from inside, as the kernel would.

        Not with `docker kill`, after which no restart policy applies.
        """
        self.execute(service, "pkill", "-KILL", "-P", "1")

    def address(self, service: str, port: int) -> str:
        """Where a service is published."""
        return f"http://{self.compose('port', service, str(port), output=True).strip()}"

    def down(self) -> None:
        """Removes containers, networks and volumes."""
        self.compose("down", "--volumes", "--remove-orphans")

    def left_behind(self) -> list[str]:
        """Containers, networks and volumes of this project that exist."""
        of_project = ["--filter", f"label=com.docker.compose.project={self.project}", "--quiet"]
        kinds = (["ps", "--all"], ["network", "ls"], ["volume", "ls"])
        return [name for kind in kinds for name in docker(*kind, *of_project).split()]


def project_name(env_file: Path) -> str:
    """The name that `docker compose` gives this project by itself: the environment's, else .env's.

    Args:
        env_file: Lines `NAME=value`, perhaps with `export`, quotes or a comment.
    """
    return setting(env_file, PROJECT_VARIABLE) or "penumbra"


def setting(env_file: Path, name: str) -> str:
    """The value of a variable for Compose: the environment's, else .env's; empty where unset."""
    written = [line.partition("=")[2] for line in lines_of(env_file, [name])]
    found = re.match(r"\s*(?:'([^']*)'|\"([^\"]*)\"|(.*?))\s*(?:\s#.*)?$", "".join(written[-1:]))
    return os.environ.get(name) or "".join(filter(None, found.groups() if found else ()))


def lines_of(env_file: Path, names: Iterable[str]) -> list[str]:
    """The lines of a file of variables that give these a value; none where there is no file."""
    text = env_file.read_text() if env_file.exists() else ""
    pattern = rf"^\s*(?:export\s+)?(?:{'|'.join(names)})\s*="
    return [line for line in text.splitlines(keepends=True) if re.match(pattern, line)]


def check_settings(env_file: Path) -> None:
    """Checks what Compose takes as it is: a missing path would become a folder of root's.

    Raises:
        StackError: A path of this host is not there, or Airflow's port moved without its address.
    """
    for name, is_there, expected in (
        ("PENUMBRA_SETTINGS", Path.is_file, "a file"),
        ("PENUMBRA_EVENTS", Path.is_dir, "a folder"),
    ):
        value = setting(env_file, name)
        # Else the name of a volume; what Compose fills in is left to it.
        is_path = value.startswith((".", "/", "~")) and "$" not in value
        if is_path and not is_there(PROJECT_FOLDER / Path(value).expanduser()):
            raise StackError(f"{name}={value}", expected, ".env, or the path", NO_INPUT)
    port = setting(env_file, "AIRFLOW_PORT")
    if port not in ("", DEFAULT_PORT) and not setting(env_file, "AIRFLOW_URL"):
        expected = "AIRFLOW_URL too, the address that people open and that alerts name"
        fix = f"AIRFLOW_URL=http://127.0.0.1:{port} in .env"
        raise StackError(f"AIRFLOW_PORT={port}", expected, fix, USAGE)


def compose_command() -> list[str]:
    """`docker compose`, or `docker-compose` where that is what there is.

    Raises:
        StackError: There is neither.
    """
    if chosen := os.environ.get("COMPOSE"):
        return chosen.split()
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True)
        if plugin.returncode == 0:
            return ["docker", "compose"]
        if shutil.which("docker-compose"):
            return ["docker-compose"]
    expected = "docker with compose v2, or docker-compose 1.29"
    raise StackError("no Compose", expected, "install it, or set COMPOSE", NOT_AVAILABLE)


def docker(*arguments: str) -> str:
    """What Docker prints.

    Raises:
        StackError: It failed.
    """
    ended = subprocess.run(
        ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if ended.returncode:
        said = (ended.stdout + ended.stderr).strip()
        what = f"docker {' '.join(arguments[:3])} ended with {ended.returncode}: {said}"
        raise StackError(what, "0", "see docker's own log")
    return ended.stdout


def _label(inspected: Mapping[str, Any], name: str) -> str | None:
    return inspected["Config"]["Labels"].get(f"com.docker.compose.{name}")


def _container(inspected: Mapping[str, Any]) -> Container:
    state = inspected["State"]
    return Container(
        id=inspected["Id"],
        service=_label(inspected, "service") or "",
        state=state["Status"],
        health=(state.get("Health") or {}).get("Status", ""),
        exit_code=state["ExitCode"],
        restarts=inspected["RestartCount"],
    )


def main(arguments: Sequence[str]) -> int:
    """Starts the stack of `.env`, or removes it."""
    env_file = PROJECT_FOLDER / ".env"
    try:
        if not env_file.exists():
            raise StackError("no .env", "one with secrets", "make secrets", USAGE)
        stack = Stack(project_name(env_file), env_file, {})
        if list(arguments) == ["up"]:
            check_settings(env_file)
            _up(stack)
        elif list(arguments) == ["down"]:
            stack.down()
        else:
            raise StackError(f"arguments {list(arguments)}", "up or down", "the command", USAGE)
    except StackError as error:
        print(f"docker/stack.py: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _up(stack: Stack) -> None:
    started = time.monotonic()
    stack.build()
    stack.compose("up", "--detach")
    stack.wait()
    print(f"All services are healthy after {time.monotonic() - started:.0f} s.")
    airflow = stack.address("airflow-api-server", 8080)
    print(f"Airflow  {airflow}   user admin, password in .env")
    print(f"MLflow   {stack.address('mlflow', 5000)}")
    print(f"Spark    {stack.address('spark-master', 8080)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
