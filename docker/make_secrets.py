"""Make secrets: every secret that docker-compose.yml asks for, random, in a file for this host.

    python docker/make_secrets.py .env

Keeps what is in the file: only what is missing is added, because the database remembers the
passwords it was made with. Needs nothing but Python.
"""

import base64
import os
import re
import secrets
import sys
from pathlib import Path

COMPOSE_FILE = Path(__file__).resolve().parent.parent / "docker-compose.yml"
ASKED_FOR = re.compile(r"\$\{([A-Z_]+):\?")
FERNET_KEY = "AIRFLOW_FERNET_KEY"
NUM_BYTES = 32
HEADER = "# Secrets of docker-compose.yml, made by `make secrets`. Whoever reads them is in.\n"
PROJECT = "COMPOSE_PROJECT_NAME=penumbra\n"
"""What `docker compose` calls the containers that `make up` starts."""


def generate(name: str) -> str:
    """A new secret: letters and digits, which need no quoting anywhere; a Fernet key is base64."""
    random = secrets.token_bytes(NUM_BYTES)
    return base64.urlsafe_b64encode(random).decode() if name == FERNET_KEY else random.hex()


def add_missing(file: Path, names: list[str]) -> list[str]:
    """Adds the names that a file lacks, each with a secret; only the owner may read it.

    Returns:
        What was added.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+") as lines:
        os.fchmod(descriptor, 0o600)
        text = lines.read()
        missing = [n for n in names if not _has(text, n)]
        added = "" if _has(text, PROJECT.split("=")[0]) else PROJECT
        added += "".join(f"{name}={generate(name)}\n" for name in missing)
        start = HEADER if not text else "" if text.endswith("\n") else "\n"
        lines.write(start + added if added else "")
    return missing


def _has(text: str, name: str) -> bool:
    return bool(re.search(rf"^\s*(?:export\s+)?{name}\s*=[ \t]*\S", text, re.MULTILINE))


def main(arguments: list[str]) -> int:
    """Writes the file named on the command line, by default `.env`, and says what it did."""
    file = Path(arguments[0] if arguments else ".env")
    names = sorted(set(ASKED_FOR.findall(COMPOSE_FILE.read_text())))
    added = add_missing(file, names)
    print(f"{file}: {', '.join(added) if added else 'has every secret already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
