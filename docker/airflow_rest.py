"""Airflow REST: what the smoke test asks of Airflow's interface, as any other client would."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

TIMEOUT_SECONDS = 30.0
SECONDS_BETWEEN_POLLS = 2.0
ENDED = ("success", "failed")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Its addresses are on this host, whatever proxy the environment names."""


def fetch(address: str, body: Any = None, method: str = "GET", token: str = "") -> Any:
    """The JSON that an address answers with.

    Raises:
        OSError: No answer, or one that is an error.
    """
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, headers, method=method)
    with OPENER.open(request, timeout=TIMEOUT_SECONDS) as answer:
        return json.load(answer)


class Airflow:
    """One DAG, through a token."""

    def __init__(self, address: str, user: str, password: str, dag_id: str) -> None:
        self.dag = f"{address}/api/v2/dags/{dag_id}"
        body = {"username": user, "password": password}
        self.token = fetch(f"{address}/auth/token", body, "POST")["access_token"]

    def unpause(self, deadline: float) -> None:
        """Lets the DAG's runs start, as soon as it has been read (by then, monotonic seconds)."""
        while True:
            try:
                fetch(self.dag, {"is_paused": False}, "PATCH", self.token)
                return
            except urllib.error.HTTPError as error:
                if error.code != 404 or time.monotonic() > deadline:
                    raise
                time.sleep(SECONDS_BETWEEN_POLLS)

    def trigger(self, ds: str) -> str:
        """Starts a run about a day; returns its id."""
        body = {"logical_date": None, "conf": {"ds": ds}}
        return fetch(f"{self.dag}/dagRuns", body, "POST", self.token)["dag_run_id"]

    def state(self, run_id: str) -> str:
        """Of a run."""
        return fetch(f"{self.dag}/dagRuns/{run_id}", token=self.token)["state"]

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        """State, try and seconds of a run's tasks, by name."""
        found = fetch(f"{self.dag}/dagRuns/{run_id}/taskInstances", token=self.token)
        return {task["task_id"]: task for task in found["task_instances"]}

    def follow(self, run_id: str, deadline: float) -> Iterator[dict[str, dict[str, Any]]]:
        """The run's tasks, every few seconds until it ends.

        A question that Airflow cannot answer just now is asked again.

        Raises:
            TimeoutError: It has not ended by then (monotonic seconds).
        """
        state: str | None = None
        while state not in ENDED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {run_id} is {state} still")
            time.sleep(SECONDS_BETWEEN_POLLS)
            try:
                state, tasks = self.state(run_id), self.tasks(run_id)
            except OSError:
                continue
            yield tasks
