"""Tracking: MLflow, set up for this project and written to by training.

Without `registry.tracking_uri` everything lies under the root: `mlflow/mlflow.db` (SQLite) and
`mlflow/artifacts`. Nothing here uses the network unless an address is set. MLflow takes seconds
to import, so it is imported where it is first needed.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from schemas.publishing import locked
from schemas.settings import Settings

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING", "false")

FINGERPRINT_TAG = "penumbra.fingerprint"
"""Digest of a run's inputs, settings and code: one MLflow run per fingerprint."""


def configure(root: Path, settings: Settings) -> "MlflowClient":
    """Points MLflow of this process at the project's store and makes its experiment.

    Args:
        root: Folder of all tables.
        settings: `registry.tracking_uri` and `registry.experiment` are read.

    Returns:
        A client of that store; `mlflow.*` functions use the same store from now on.
    """
    from mlflow.tracking import MlflowClient, set_tracking_uri

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    folder = root.resolve() / "mlflow"
    address = settings.registry.tracking_uri or f"sqlite:///{folder / 'mlflow.db'}"
    set_tracking_uri(address)
    with locked(folder / ".lock"):  # two first users must not both migrate an empty database
        client = MlflowClient(address, address)
        if client.get_experiment_by_name(settings.registry.experiment) is None:
            location = None if settings.registry.tracking_uri else str(folder / "artifacts")
            client.create_experiment(settings.registry.experiment, artifact_location=location)
    return client


class TrackedRun:
    """One training run in MLflow: the same run for the same fingerprint, whoever continues it.

    As a context manager it ends the run as FINISHED, or as FAILED by an error; a killed process
    leaves it RUNNING, for its successor to go on with. What is logged already is not logged again.
    """

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.client, self.id = client, run_id
        self._logged = {m.step for m in client.get_metric_history(run_id, "train_loss")}

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Logs an epoch's metrics with the epoch as step."""
        from mlflow.entities import Metric

        if epoch not in self._logged:
            now = int(time.time() * 1000)
            points = [Metric(name, value, now, epoch) for name, value in metrics.items()]
            self.client.log_batch(self.id, metrics=points)
            self._logged.add(epoch)

    def log_facts(self, prefix: str, facts: Mapping[str, Any]) -> None:
        """Logs all numbers among some facts, nested ones as `prefix/name/name`, once a run."""
        from mlflow.entities import Metric

        logged, now = self.client.get_run(self.id).data.metrics, int(time.time() * 1000)
        found = {name: value for name, value in _numbers(prefix, facts) if name not in logged}
        self.client.log_batch(self.id, metrics=[Metric(n, v, now, 0) for n, v in found.items()])

    def __enter__(self) -> "TrackedRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "FAILED"
        if self.client.get_run(self.id).info.status != status:
            self.client.set_terminated(self.id, status)


def _numbers(prefix: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}/{name}", value)
        elif isinstance(value, int | float):
            yield f"{prefix}/{name}", float(value)


def track(
    root: Path,
    settings: Settings,
    name: str,
    fingerprint: str,
    tags: Mapping[str, str],
) -> TrackedRun:
    """The MLflow run of a fingerprint; made, with the training section as parameters, if new.

    Args:
        root: Folder of all tables.
        settings: Registry section for the store, training section for the parameters.
        name: What the run is called, such as its date.
        fingerprint: Digest of inputs, settings and code.
        tags: Further tags of a new run.
    """
    from mlflow.entities import Param

    client = configure(root, settings)
    experiment = client.get_experiment_by_name(settings.registry.experiment).experiment_id
    same = f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'"
    found = client.search_runs([experiment], same, max_results=1)
    all_tags = {FINGERPRINT_TAG: fingerprint, **tags}
    run = found[0] if found else client.create_run(experiment, tags=all_tags, run_name=name)
    values = settings.training.model_dump()
    client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in values.items()])
    return TrackedRun(client, run.info.run_id)
