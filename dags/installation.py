"""Installation: where the code, the tables and the settings of this Airflow's DAGs are."""

import ast
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from schemas.settings import Settings

PROJECT = Path(__file__).resolve().parent.parent
ROOT = Path(os.environ.get("PENUMBRA_ROOT", PROJECT / "var")).resolve()
SETTINGS_FILE = Path(os.environ.get("PENUMBRA_SETTINGS", PROJECT / "pipeline.toml")).resolve()


def documentation(module: str) -> str:
    """A program's own docstring as the documentation of its task; nothing is imported."""
    source = (PROJECT / module.replace(".", "/")).with_suffix(".py").read_text()
    return f"```text\n{ast.get_docstring(ast.parse(source))}\n```"


def retries(settings: Settings) -> dict[str, Any]:
    """Arguments of a task that is tried again, ever later."""
    return {
        "retries": settings.schedule.retries,
        "retry_delay": timedelta(seconds=settings.schedule.retry_delay_seconds),
        # Airflow doubles the delay and adds up to as much again, by a hash of task and try.
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(hours=1),
    }
