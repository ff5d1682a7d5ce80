"""Artifact: a night's model as the registry stores it, with code, requirements and signature.

MLflow reads the model from `trainer/serving_model.py`. Nothing here loads torch before a model is
stored: most commands of the registry store none.
"""

import importlib.metadata
import warnings
from pathlib import Path

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(Array(DataType.string), "history"),
            ColSpec(DataType.long, "k", required=False),
            ColSpec(DataType.boolean, "exclude_seen", required=False),
        ]
    ),
    outputs=Schema(
        [
            ColSpec(Array(DataType.string), "item_id"),
            ColSpec(Array(DataType.double), "score"),
            ColSpec(DataType.boolean, "is_fallback"),
        ]
    ),
)
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "scipy", "torch")


def log(folder: Path, name: str, tags: dict[str, str]) -> str:
    """Stores the model in a scorer's folder as an artifact of the active experiment.

    Args:
        folder: As `scorer_files.write` fills it.
        name: Of the logged model.
        tags: On the logged model.

    Returns:
        Its address, `models:/m-...`; the artifact is complete when this returns.
    """
    project = Path(__file__).parent.parent
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*input example.*")  # the signature is written above
        # MLflow warns of its own type hints, while what loads here is imported.
        warnings.filterwarnings("ignore", ".*Any type hint is inferred.*")
        info = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(project / "trainer" / "serving_model.py"),
            artifacts={"model": str(folder)},
            code_paths=[str(project / "schemas"), str(project / "trainer")],
            pip_requirements=[f"{p}=={importlib.metadata.version(p)}" for p in REQUIREMENTS],
            signature=SIGNATURE,
            tags=tags,
        )
    return str(info.model_uri)
