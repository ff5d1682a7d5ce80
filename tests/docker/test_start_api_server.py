"""The API server's start: the password that Airflow reads, and nobody else."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent.parent.parent / "docker" / "start_api_server.py"


def test_the_given_password_lies_in_a_private_file_and_not_in_the_servers_environment(tmp_path):
    program = tmp_path / "airflow"
    program.write_text('#!/bin/sh\necho "$@"; env\n')
    program.chmod(0o755)
    passwords = tmp_path / "passwords.json"
    passwords.write_text('{"admin": "of the start before, longer"}')
    given = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW_ADMIN_PASSWORD": "given",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    command = [sys.executable, PROGRAM, "--workers", "1"]
    said = subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout
    assert said.startswith("api-server --workers 1\n")
    assert "AIRFLOW_ADMIN_PASSWORD" not in said
    assert json.loads(passwords.read_text()) == {"admin": "given"}
    assert passwords.stat().st_mode & 0o777 == 0o600
