import os
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from benchmarks.resident_memory import peak_resident_bytes, tree_bytes

MEGABYTES = 10**6
HOLD = "held = bytearray(b'1' * 100_000_000)"
"""Touches 100 MB."""
WAIT = "os.write(1, b'held\\n'); sys.stdin.read()"
"""Says so, in one piece however output is buffered, and waits until its input is closed."""


@contextmanager
def running(*statements, num_processes=1):
    """A Python program of these statements, once all its processes said that they hold."""
    command = [sys.executable, "-c", "; ".join(["import os, sys", *statements])]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        for _ in range(num_processes):
            assert process.stdout.readline() == "held\n"
        yield process


def test_children_count_as_long_as_they_live():
    # In a program of its own: what this process holds changes as the tests go by.
    child_holds = HOLD.replace("100_000_000", "(0 if os.fork() else 100_000_000)")
    with running(child_holds, WAIT, num_processes=2) as parent:
        (child,) = psutil.Process(parent.pid).children()
        assert tree_bytes(parent.pid) > 100 * MEGABYTES
        assert tree_bytes(child.pid) > 100 * MEGABYTES
        child.kill()
        deadline = time.monotonic() + 60
        while child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert 0 < tree_bytes(parent.pid) < 50 * MEGABYTES
    assert tree_bytes(parent.pid) == 0


def test_shared_pages_count_once():
    with running(HOLD, "os.fork() and os.fork()", WAIT, num_processes=3) as parent:
        assert 100 * MEGABYTES < tree_bytes(parent.pid) < 200 * MEGABYTES


def test_the_peak_of_a_program_is_sampled_until_it_ends(tmp_path):
    program = "import time; block = bytearray(10**8); time.sleep(1); del block; time.sleep(1)"
    command = [sys.executable, "-c", program]
    peak, num_samples = peak_resident_bytes(command, dict(os.environ), tmp_path)
    assert peak > 100 * MEGABYTES
    assert num_samples >= 3


def test_a_program_that_fails_is_an_error(tmp_path):
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        peak_resident_bytes([sys.executable, "-c", "exit(3)"], dict(os.environ), tmp_path)
