"""Workers of a program that prepared them before it started Spark; others: test_spark.py."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

import psutil
import pytest

from jobs import worker_daemon
from jobs.spark import LONGEST_SOCKET_FOLDER, _sockets

SECONDS = 60.0
"""In which all must be gone; it takes a moment."""
PRESTART = """
import os, sys, time
import psutil
from jobs.spark import context, prestart_workers, run_tasks
from schemas.settings import SparkSettings

settings = SparkSettings(master="local[2]", driver_memory="1g")
prestart_workers(settings)
(waiting,) = psutil.Process().children()
print(waiting.pid, flush=True)
"""
RUN_TASKS = """
def look(_):
    import jobs.top_k
    is_compiled = bool(jobs.top_k._top_k_of_rows.signatures)
    return os.getppid(), is_compiled, os.environ["SPARK_REUSE_WORKER"], "--own" in sys.argv

spark = context("test", settings)
for parent, *found in run_tasks(spark, look, range(2)):
    print(parent == waiting.pid, *found, flush=True)
print(spark.getConf().get("spark.python.unix.domain.socket.dir"))
"""


@pytest.fixture
def start():
    """Starts a program; whatever happens, it does not outlive the test."""
    programs = []

    def start(text):
        command = [sys.executable, "-c", text, "--own"]
        programs.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
        program.wait()
        program.stdout.close()


def wait_for_end(pid):
    """Raises psutil.TimeoutExpired where a process goes on."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(SECONDS)


def test_workers_are_forked_from_the_process_that_waited_and_leave_nothing(start):
    pid, *workers, sockets = start(PRESTART + RUN_TASKS).communicate()[0].splitlines()
    assert workers == ["True True 1 False"] * 2
    wait_for_end(int(pid))
    assert Path(sockets).is_relative_to(gettempdir()) and not Path(sockets).exists()


def test_what_waits_for_spark_ends_with_a_stage_that_is_killed_before(start):
    program = start(PRESTART + "time.sleep(600)")
    pid = int(program.stdout.readline())
    assert psutil.pid_exists(pid)
    program.kill()
    wait_for_end(pid)


def test_where_a_sockets_path_would_be_too_long_workers_use_tcp(monkeypatch, tmp_path):
    folder = tmp_path / ("x" * LONGEST_SOCKET_FOLDER)
    monkeypatch.setattr("jobs.spark.scratch_folder", lambda: str(folder))
    assert _sockets() == {}


def test_where_nobody_waits_any_more_the_daemon_does_without(monkeypatch):
    monkeypatch.setenv(worker_daemon.WAITING, "penumbra-nobody")
    assert not worker_daemon._hand_over()
    assert worker_daemon.WAITING not in os.environ
