"""Stopwatch: seconds by phase of a stage, for its manifest."""

import time


class Stopwatch:
    """Started when made; every `lap` ends a phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        """Ends a phase of this name; the next begins."""
        now = time.monotonic()
        self.seconds[phase] = round(now - self._last, 3)
        self._last = now
