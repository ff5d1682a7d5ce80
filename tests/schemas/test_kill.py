"""OP 1: a process killed at any file operation of publishing leaves old or new, never between."""

import itertools
import os
import signal
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.contract import Contract, required
from schemas.partitions import find
from schemas.publishing import draft, new_token, publish

DS = date(2017, 10, 31)
OPERATIONS = ("open", "os.rename", "os.mkdir", "fcntl.flock")
FRUIT = Contract(
    table="fruit",
    version=1,
    key=("name",),
    stage="tests",
    about="One fruit.",
    fields=[required("name", pa.string(), "what")],
)


def publish_pears(root: Path, countdown: int) -> int:
    """Publishes in a process that is killed just before one of its file operations.

    Returns:
        How the process ended: negative is a signal. An audit hook sees all operations.
    """
    child = os.fork()
    if child == 0:
        try:
            run = draft(root, FRUIT, DS, new_token())
            run.write(pa.table({"name": ["pear"]}))
            left = itertools.count(countdown, -1)

            def hook(event: str, _: object) -> None:
                if event in OPERATIONS and next(left) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            publish(run, DS)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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
        exit_code = publish_pears(apples, n)
        outcomes.append((exit_code, read(apples)))
        if exit_code == 0:
            break
    assert outcomes[-1] == (0, ["pear"])
    killed = [rows for exit_code, rows in outcomes[:-1] if exit_code == -9]
    assert len(killed) == len(outcomes) - 1 >= 8
    assert killed[0] == ["apple"]
    assert killed == sorted(killed), "once the new version is visible it stays"
