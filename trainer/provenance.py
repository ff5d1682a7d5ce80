"""Provenance: which code, which libraries and which DAG run made what a process publishes."""

import os
import subprocess
from pathlib import Path

from schemas.audit import file_sha256

COMMIT_VARIABLE = "PENUMBRA_COMMIT"
"""Names the commit where the code was installed without its repository, as in an image."""

DAG_RUN_VARIABLE = "AIRFLOW_CTX_DAG_RUN_ID"
"""Set by Airflow in every task."""

PROJECT = Path(__file__).parent.parent


def of_process(project: Path = PROJECT) -> dict[str, str]:
    """`commit`, `lock_sha256` and `dag_run_id`, each where it is known.

    Args:
        project: Folder of the code. A commit with `-dirty` had changes that are in no commit.
    """
    lock = project / "requirements.lock"
    known = {
        "commit": os.environ.get(COMMIT_VARIABLE) or _commit(project),
        "lock_sha256": file_sha256(lock) if lock.is_file() else "",
        "dag_run_id": os.environ.get(DAG_RUN_VARIABLE, ""),
    }
    return {name: value for name, value in known.items() if value}


def _commit(project: Path) -> str:
    if not (project / ".git").exists():
        return ""
    command = ["git", "-C", str(project), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        result = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return result.stdout.strip()
