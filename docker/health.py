"""Health: asks a service something it must know, for health checks in images without curl.

    python docker/health.py http://mlflow:5000/api/2.0/mlflow/experiments/search?max_results=1
    python docker/health.py http://spark-master:8080/json/ status=ALIVE

Exit code 0 where the answer is 200 and every `path=value` holds in its JSON; else 1, and what was
found on stderr.
"""

import json
import sys
import urllib.request

TIMEOUT_SECONDS = 10.0
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks the service itself, whatever proxy the environment names."""


def problem(address: str, expected: dict[str, str]) -> str:
    """What is wrong with an answer; empty where nothing is."""
    try:
        with OPENER.open(address, timeout=TIMEOUT_SECONDS) as answer:
            found = answer.read()
    except (OSError, ValueError) as error:
        return f"{address}: {error}"
    try:
        facts = json.loads(found) if expected else {}
    except ValueError:
        return f"{address}: found no JSON, expected {expected}"
    for path, value in expected.items():
        fact = facts
        for name in path.split("."):
            fact = fact.get(name) if isinstance(fact, dict) else None
        if fact != value:
            return f"{address}: found {path} = {fact}, expected {value}"
    return ""


def main(arguments: list[str]) -> int:
    """Asks once."""
    found = problem(arguments[0], dict(pair.split("=", 1) for pair in arguments[1:]))
    if found:
        print(found, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
