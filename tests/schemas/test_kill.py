"""OP 1: a process killed at any file operation of publishing leaves old or new, never between."""

import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.contract import Contract, required
from schemas.partitions import find
from schemas.publishing import draft, new_token, publish

DS = date(2017, 10, 31)
FRUIT = Contract(
    table="fruit",
    version=1,
    key=("name",),
    stage="tests",
    about="One fruit.",
    fields=[required("name", pa.string(), "what")],
)

# Publishes pears, killed just before its n-th file operation; an audit hook sees them all.
KILLED = """
import os, signal, sys
import pyarrow as pa
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_kill import DS, FRUIT, draft, new_token, publish

countdown = {n}
def hook(event, arguments):
    global countdown
    if event in ("open", "os.rename", "os.mkdir", "fcntl.flock") :
        countdown -= 1
        if countdown < 0:
            os.kill(os.getpid(), signal.SIGKILL)

run = draft(Path({root!r}), FRUIT, DS, new_token())
run.write(pa.table({{"name": ["pear"]}}))
sys.addaudithook(hook)
publish(run, DS)
"""


def read(root: Path) -> list[str]:
    partition = find(root, FRUIT, DS)
    assert partition is not None
    return [row["name"] for row in partition.read().to_pylist()]


@pytest.fixture(scope="module")
def apples(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    run = draft(root, FRUIT, DS, new_token())
    run.write(pa.table({"name": ["apple"]}))
    publish(run, DS)
    return root


def test_op01_a_kill_before_any_file_operation_leaves_old_or_new(apples):
    outcomes = []
    for n in range(40):
        code = KILLED.format(tests=str(Path(__file__).parent), n=n, root=str(apples))
        exit_code = subprocess.run([sys.executable, "-c", code], timeout=60).returncode
        outcomes.append((exit_code, read(apples)))
        if exit_code == 0:
            break
    assert outcomes[-1] == (0, ["pear"])
    killed = [rows for exit_code, rows in outcomes[:-1] if exit_code == -9]
    assert len(killed) == len(outcomes) - 1 >= 8
    assert killed[0] == ["apple"]
    assert killed == sorted(killed), "once the new version is visible it stays"
