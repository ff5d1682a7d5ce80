"""Airflow home: the environment of an Airflow that keeps everything under the root.

SQLite, no examples, no calls to the outside, nothing inherited from another Airflow on the host.
Settings of the pipeline (`PENUMBRA_TRAINING__EPOCHS=3`) are passed on.
"""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
HOME_FOLDER = "airflow"
PASSWORDS_FILE = "passwords.json"


def environment(root: Path, settings_file: Path, port: int = 8080) -> dict[str, str]:
    """All environment variables for `python -m dags.embedded` and the parts of Airflow.

    Makes the home's folder, because SQLite does not.

    Args:
        root: Folder of all tables, absolute.
        settings_file: What the stages are given as `--settings`, absolute.
        port: Of the web interface, on loopback.
    """
    home = root / HOME_FOLDER
    home.mkdir(parents=True, exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if direct.strip() != "*":  # the parts talk to each other on this host
        direct = ",".join(filter(None, ["127.0.0.1,localhost", direct]))
    inherited |= {"no_proxy": direct, "NO_PROXY": direct}
    return inherited | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / PASSWORDS_FILE),
        # A task's alert, which a slow mail server may hold up, is not cut off after 20 s.
        "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "300",
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "300",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PENUMBRA_ROOT": str(root),
        "PENUMBRA_SETTINGS": str(settings_file),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "SCARF_ANALYTICS": "false",
    }
