"""Tracking: MLflow, set up for this project; what training and evaluation write to it.

Without `registry.tracking_uri` everything lies under the root: `mlflow/mlflow.db` (SQLite) and
`mlflow/artifacts`. Nothing here uses the network unless an address is set. MLflow takes seconds
to import, so it is imported where it is first needed.
"""

import importlib.util
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from schemas.partitions import Partition
from schemas.publishing import locked
from schemas.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Dataset
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
    from mlflow.tracking import MlflowClient

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING", "false")

FINGERPRINT_TAG = "penumbra.fingerprint"
"""Digest of a run's inputs, settings and code: one MLflow run per fingerprint."""

MADE_WITH = ("events", "items", "split", "sequences", "item_graph", "soft_targets")
"""Sections of settings that the tables follow from."""

DATASET_DIGEST_LENGTH = 36
"""The most that MLflow keeps of a dataset's digest; its profile has the whole."""

SECONDS_BETWEEN_SAMPLES = 5.0
"""Of system metrics, unless `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL` says otherwise."""


def store_of(root: Path) -> Path:
    """The embedded store, absolute."""
    return root.resolve() / "mlflow" / "mlflow.db"


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
    folder = store_of(root).parent
    address = settings.registry.tracking_uri or f"sqlite:///{store_of(root)}"
    set_tracking_uri(address)
    with locked(folder / ".lock"):  # two first users must not both migrate an empty database
        client = MlflowClient(address, address)
        if client.get_experiment_by_name(settings.registry.experiment) is None:
            location = None if settings.registry.tracking_uri else str(folder / "artifacts")
            client.create_experiment(settings.registry.experiment, artifact_location=location)
    return client


class TrackedRun:
    """One training run in MLflow: the same run for the same fingerprint, whoever continues it.

    As a context manager it samples system metrics and ends the run as FINISHED, or as FAILED by an
    error; a killed process leaves it RUNNING, for its successor to go on with. What is logged
    already is not logged again.
    """

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.client, self.id = client, run_id
        self._monitor: SystemMetricsMonitor | None = None
        self._logged = {m.step for m in client.get_metric_history(run_id, "train_loss")}

    @property
    def subject(self) -> str:
        """Which model it is, and when: `sasrec, decoupled loss, training 2017-10-31`."""
        run = self.client.get_run(self.id)
        return f"{run.data.params['backbone']}, {run.data.params['loss']} loss, {run.info.run_name}"

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

    def log_datasets(self, tables: Iterable[Partition]) -> None:
        """Logs the tables a run is trained on as its datasets; MLflow keeps each once a run."""
        from mlflow.entities import DatasetInput, InputTag

        context = [InputTag("mlflow.data.context", "training")]
        inputs = [DatasetInput(_dataset(table), context) for table in tables]
        self.client.log_inputs(self.id, inputs)

    def log_figures(self, figures: Mapping[str, "Figure"]) -> None:
        """Saves figures as `figures/<name>.png`, in the place of those of an earlier attempt."""
        for name, figure in figures.items():
            self.client.log_figure(self.id, figure, f"figures/{name}.png")

    def __enter__(self) -> "TrackedRun":
        self.client.update_run(self.id, status="RUNNING")  # MLflow samples no run that has ended
        self._monitor = _started_monitor(self.client, self.id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._monitor:
            self._monitor.finish()
        self.client.set_terminated(self.id, "FINISHED" if kind is None else "FAILED")


def _numbers(prefix: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}/{name}", value)
        elif isinstance(value, int | float):
            yield f"{prefix}/{name}", float(value)


def _dataset(table: Partition) -> "Dataset":
    """A partition as MLflow's interface shows one: where it lies, its columns, its rows."""
    from mlflow.entities import Dataset

    manifest = table.manifest
    columns = [
        {"name": field.name, "type": str(field.type), "required": not field.nullable}
        for field in table.contract.schema
    ]
    profile = {"num_rows": manifest.rows, "ds": manifest.ds, "run": manifest.run}
    profile |= {"content_digest": manifest.content_digest}
    return Dataset(
        name=manifest.table,
        digest=manifest.content_digest[:DATASET_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": str(table.path)}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(profile),
    )


def _started_monitor(client: "MlflowClient", run_id: str) -> "SystemMetricsMonitor | None":
    """MLflow's own samples of processor, memory, disk and network; None without psutil.

    It goes on after the last step that the run has.
    """
    if importlib.util.find_spec("psutil") is None:
        return None
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    # A lost sample is not worth a line among a night's messages.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitor = SystemMetricsMonitor(
        run_id,
        sampling_interval=SECONDS_BETWEEN_SAMPLES,
        resume_logging=True,
        tracking_uri=client.tracking_uri,
    )
    monitor.start()
    return monitor


def track(
    root: Path,
    settings: Settings,
    name: str,
    fingerprint: str,
    tags: Mapping[str, str],
) -> TrackedRun:
    """The MLflow run of a fingerprint; made, with its settings as parameters, if new.

    Args:
        root: Folder of all tables.
        settings: Registry section for the store; parameters are the training section's, and
            under dotted names those of evaluation and of what made the tables.
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
    values = settings.training.model_dump() | settings.dotted("evaluation")
    # A fingerprint names its tables, which others' settings may have made: the first to log counts.
    if not run.data.params:
        values |= settings.dotted(*MADE_WITH)
    client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in values.items()])
    return TrackedRun(client, run.info.run_id)


def find_run(root: Path, settings: Settings, run_id: str | None) -> TrackedRun | None:
    """A run to add to, None without an id or where the store has no such run (any more).

    Args:
        root: Folder of all tables.
        settings: Registry section for the store.
        run_id: As a checkpoint's notes name it.
    """
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    client = configure(root, settings)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return TrackedRun(client, run_id) if run.info.lifecycle_stage == "active" else None
