"""Tracking: MLflow, set up for this project and written to by training.

Without `registry.tracking_uri` everything lies under the root: `mlflow/mlflow.db` (SQLite) and
`mlflow/artifacts`. Nothing here uses the network unless an address is set.
"""

import logging
import os
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING", "false")

from mlflow.tracking import MlflowClient, set_tracking_uri

from schemas.publishing import locked
from schemas.settings import Settings


def configure(root: Path, settings: Settings) -> MlflowClient:
    """Points MLflow of this process at the project's store and makes its experiment.

    Args:
        root: Folder of all tables.
        settings: `registry.tracking_uri` and `registry.experiment` are read.

    Returns:
        A client of that store; `mlflow.*` functions use the same store from now on.
    """
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
