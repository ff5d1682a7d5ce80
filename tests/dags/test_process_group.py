"""Real programs, killed; psutil looks for what is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dags.process_group import ProcessGroup

FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
{then}
"""
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""
CALLER = """
import os, sys
from pathlib import Path
from dags.process_group import ProcessGroup
program = Path({program!r}).read_text()
group = ProcessGroup([sys.executable, "-c", program], Path.cwd(), dict(os.environ))
group.run(lambda line: print(line, flush=True))
"""


def start(program: str, folder: Path) -> ProcessGroup:
    return ProcessGroup([sys.executable, "-c", program], folder, dict(os.environ))


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_gone(pids: list[int], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not all(map(is_gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return all(map(is_gone, pids))


def test_every_line_is_handed_over_in_order_with_the_exit_code(tmp_path):
    lines: list[str] = []
    program = "import sys; print('one', flush=True); print('two', file=sys.stderr); sys.exit(65)"
    assert start(program, tmp_path).run(lines.append) == 65
    assert lines == ["one", "two"]


def test_the_program_runs_in_the_folder_with_just_its_environment(tmp_path):
    lines: list[str] = []
    program = "import os; print(os.getcwd()); print(os.environ['FRUIT'], 'HOME' in os.environ)"
    group = ProcessGroup([sys.executable, "-c", program], tmp_path, {"FRUIT": "plum"})
    group.run(lines.append)
    assert lines == [str(tmp_path), "plum False"]


def test_op18_a_program_that_ends_takes_its_children_along(tmp_path):
    lines: list[str] = []
    assert start(FAMILY.format(then="sys.exit(3)"), tmp_path).run(lines.append) == 3
    assert all_gone([int(pid) for pid in lines[0].split()])


def test_op18_stop_ends_the_program_and_its_children(tmp_path):
    pids: list[int] = []
    group = start(FAMILY.format(then="time.sleep(600)"), tmp_path)

    def stop_at_once(line: str) -> None:
        pids.extend(map(int, line.split()))
        group.stop()

    assert group.run(stop_at_once) == -signal.SIGTERM
    assert len(pids) == 2
    assert all_gone(pids)


def test_op18_what_ignores_sigterm_is_killed_after_a_while(tmp_path):
    group = start(STUBBORN, tmp_path)
    assert group.process.stdout is not None
    pid = int(group.process.stdout.readline())
    started = time.monotonic()
    group.stop(grace_seconds=0.3)
    assert all_gone([pid])
    assert 0.3 < time.monotonic() - started < 3
    group.process.stdout.close()


def test_op18_an_error_while_reading_ends_the_program(tmp_path):
    group = start(FAMILY.format(then="time.sleep(600)"), tmp_path)
    pids: list[int] = []

    def interrupted(line: str) -> None:
        pids.extend(map(int, line.split()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        group.run(interrupted)
    assert all_gone(pids)


def test_op18_a_caller_killed_with_sigkill_leaves_no_process(tmp_path):
    program = tmp_path / "family.py"
    program.write_text(FAMILY.format(then="time.sleep(600)"))
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER.format(program=str(program))],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert caller.stdout is not None
    pids = [int(pid) for pid in caller.stdout.readline().split()]
    watchdogs = [p.pid for p in psutil.Process(caller.pid).children() if p.pid not in pids]
    assert len(pids) == 2
    assert len(watchdogs) == 1
    caller.kill()
    caller.communicate()
    assert all_gone(pids + watchdogs)
