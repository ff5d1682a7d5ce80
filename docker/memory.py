"""Memory: the most that each service of a stack used while something ran."""

import re
from threading import Event, Thread
from types import TracebackType

from stack import Stack, StackError, docker

SECONDS_BETWEEN_SAMPLES = 5.0
GIBIBYTES = {"B": 2.0**-30, "KiB": 2.0**-20, "MiB": 2.0**-10, "GiB": 1.0}


class Memory:
    """Samples what `docker stats` says, in a thread, as a context manager."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.peaks: dict[str, float] = {}
        self._ended = Event()
        self._thread = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_SAMPLES):
            try:
                services = {
                    one.id: one.service for one in self.stack.containers() if one.state == "running"
                }
                form = "{{.ID}} {{.MemUsage}}"
                said = docker("stats", "--no-stream", "--no-trunc", "--format", form, *services)
            except StackError:  # a container may end between the two questions
                continue
            for line in said.splitlines():
                used = re.match(r"(\w+) ([\d.]+)(\w+) /", line)
                if used and used[3] in GIBIBYTES:
                    service, size = services[used[1]], float(used[2]) * GIBIBYTES[used[3]]
                    self.peaks[service] = max(size, self.peaks.get(service, 0.0))
