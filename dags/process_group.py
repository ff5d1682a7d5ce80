"""Process group: a program and all that it starts, which end together, however the caller ends.

Three ways out, none of which leaves a process behind:

- the program ends: what it left running is told to stop, then killed;
- `stop` (Airflow's `on_kill`, a timeout, Ctrl-C): the same, for the program too;
- the caller is killed with SIGKILL, and can do nothing any more: a watchdog that reads from a pipe
  only the caller holds open sees the pipe close, and kills the group.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

GRACE_SECONDS = 4.0
"""From SIGTERM to SIGKILL; Airflow itself waits 5 s between the two for a task."""

_WATCHDOG = ("/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "watchdog")


class ProcessGroup:
    """One running program in a process group of its own, with its watchdog."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        """Starts a program.

        Args:
            command: The program and its arguments.
            folder: Its working folder.
            environment: All its environment variables.

        Raises:
            OSError: It cannot be started.
        """
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._watchdog = subprocess.Popen(
            [*_WATCHDOG, str(self.process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, on_line: Callable[[str], None]) -> int:
        """Hands over every line of output as it comes; returns the program's exit code.

        A negative exit code is the signal that ended the program.
        """
        # A grandchild that outlives the program may hold the output open: without this thread the
        # loop below would wait for it instead of ending it.
        end = Thread(target=self._end_with_the_program, daemon=True)
        end.start()
        try:
            assert self.process.stdout is not None
            with self.process.stdout as output:
                for line in output:
                    on_line(line.rstrip())
        except BaseException:
            self.stop()
            raise
        finally:
            end.join()
        return self.process.returncode

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Ends the program and all that it started: SIGTERM, then SIGKILL after a while."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while self._is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        self._watchdog.kill()
        for process in (self.process, self._watchdog):
            # With a timeout, `wait` cannot deadlock where a signal handler interrupts itself.
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()

    def _end_with_the_program(self) -> None:
        self.process.wait()
        self.stop()

    def _is_alive(self) -> bool:
        """Whether the group has a process that is not merely waiting to be reaped."""
        if not self._signal(0):
            return False
        return any(self._is_member(stat) for stat in Path("/proc").glob("[0-9]*/stat"))

    def _is_member(self, stat: Path) -> bool:
        with suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            return int(group) == self.process.pid and state != "Z"
        return False

    def _signal(self, number: int) -> bool:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)
            return True
        return False
