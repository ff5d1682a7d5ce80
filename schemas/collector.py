"""Collector: keeps Python's garbage collector out of a program's start and end.

While torch, MLflow or Spark are imported it goes through ever more objects, of which none is
garbage, and at the end through all of them again: a second of the three that an idle stage takes.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def pause_at_start() -> None:
    """Switches it off where `python -m` is about to import a program of the calling package."""
    if sys.argv[:1] == ["-m"]:  # so it is until the program's own file is found
        gc.disable()


@contextmanager
def at_work() -> Iterator[None]:
    """Inside, a program has a collector that leaves alone what was imported; after it, none."""
    gc.freeze()
    gc.enable()
    try:
        yield
    finally:
        gc.freeze()
