"""The script that docker-compose.yml hands to a new Postgres, run on a real one."""

import os
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

SCRIPT = Path(__file__).parent.parent.parent.parent / "docker" / "postgres.sh"


@pytest.fixture(scope="module")
def folder(postgres):
    """Of the server's socket, after the script has run as the image would have it."""
    folder = Path(postgres.split("host=")[1])
    given = {
        "AIRFLOW_DB_PASSWORD": "a'b",
        "MLFLOW_DB_PASSWORD": "m",
        "PATH": f"{folder / 'package' / 'pginstall18' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": str(folder),
        "POSTGRES_USER": "penumbra",
    }
    subprocess.run(["bash", "-ec", f". {SCRIPT}"], env=given, check=True)
    return folder


def ask(folder, role, database, query):
    engine = create_engine(f"postgresql+psycopg2://{role}@/{database}?host={folder}")
    try:
        with engine.begin() as connection:
            return connection.execute(text(query)).scalar()
    finally:
        engine.dispose()


@pytest.mark.parametrize("name", ["airflow", "mlflow"])
def test_a_role_may_make_tables_in_its_own_database(folder, name):
    assert ask(folder, name, name, "create table t(a int); select current_user") == name


@pytest.mark.parametrize(("role", "database"), [("airflow", "mlflow"), ("mlflow", "airflow")])
def test_a_role_may_not_enter_the_others_database(folder, role, database):
    with pytest.raises(OperationalError, match="permission denied for database"):
        ask(folder, role, database, "select 1")


def test_passwords_are_stored_only_as_verifiers(folder):
    query = "select rolpassword from pg_authid where rolname = 'airflow'"
    assert ask(folder, "penumbra", "postgres", query).startswith("SCRAM-SHA-256$")
