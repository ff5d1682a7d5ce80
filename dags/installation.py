"""Installation: where the code, the tables and the settings of this Airflow's DAGs are."""

import ast
import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
ROOT = Path(os.environ.get("PENUMBRA_ROOT", PROJECT / "var")).resolve()
SETTINGS_FILE = Path(os.environ.get("PENUMBRA_SETTINGS", PROJECT / "pipeline.toml")).resolve()


def documentation(module: str) -> str:
    """A program's own docstring as the documentation of its task; nothing is imported."""
    source = (PROJECT / module.replace(".", "/")).with_suffix(".py").read_text()
    return f"```text\n{ast.get_docstring(ast.parse(source))}\n```"
