"""Start API server: Airflow's interface, whose one user has the password it was given.

Airflow would make a password up and print it to its log. The file it reads is made anew at every
start, for its owner only, outside of any volume.
"""

import json
import os
import sys
from pathlib import Path

USER = "admin"
PASSWORD_VARIABLE = "AIRFLOW_ADMIN_PASSWORD"
FILE_VARIABLE = "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"


def main() -> None:
    """Writes the password file and becomes the server."""
    file = Path(os.environ[FILE_VARIABLE])
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(json.dumps({USER: os.environ.pop(PASSWORD_VARIABLE)}))
    os.execvp("airflow", ["airflow", "api-server", *sys.argv[1:]])


if __name__ == "__main__":
    main()
