"""Process: how a program of ours ends with whoever started it."""

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "PENUMBRA_PARENT_PID"
"""Set by an orchestrator that wants the stage to die with it."""


def interrupt_when_told_to_end() -> None:
    """Lets the end of a session do what Ctrl-C does, except where it was asked to be survived."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def die_with_parent() -> None:
    """Asks the kernel to kill this process when the one in `PARENT_VARIABLE` dies."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        die_with(int(parent))


def die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent dies, at once if it has (Linux).

    Args:
        parent: Process id of the parent; another one means that the parent has died.
    """
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
