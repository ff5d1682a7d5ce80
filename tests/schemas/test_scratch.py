import subprocess
import sys

import pytest

from schemas.scratch import LOCK_FILE, remove_abandoned

MAKE = """
import sys
from pathlib import Path
from schemas.scratch import scratch_folder
Path(scratch_folder("a-"), "file").touch()
print(flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process that has a folder in `tmp_path` until it is told to end."""
    processes = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", MAKE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"TMPDIR": str(tmp_path)},
            text=True,
        )
        processes.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_folder_goes_with_its_process(start, tmp_path):
    process = start()
    assert len(list(tmp_path.iterdir())) == 1
    process.communicate("\n")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_when_the_next_one_makes_a_folder(start, tmp_path):
    killed = start()
    (left,) = tmp_path.iterdir()
    killed.kill()
    killed.wait()
    start()
    (found,) = tmp_path.iterdir()
    assert found != left


def test_folders_of_processes_at_work_and_of_others_stay(start, tmp_path):
    start()
    start()
    (tmp_path / "penumbra-of-somebody").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK_FILE).touch()
    (tmp_path / "penumbra-venv").mkdir()
    (tmp_path / "penumbra-venv" / ".lock").touch()
    remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
