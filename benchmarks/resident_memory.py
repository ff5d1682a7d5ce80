"""Resident memory: what a program and all processes it starts hold at once, at their peak.

Measured is the sum of proportional set sizes (PSS): a page that n processes share counts 1/n in
each of them, so that a memory-mapped graph counts once however many workers read it.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

INTERVAL_SECONDS = 0.2


def peak_resident_bytes(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> tuple[int, int]:
    """Runs a program to its end; the largest sum of PSS that was sampled, and how often it was.

    Raises:
        CalledProcessError: The program failed.
    """
    peak = num_samples = 0
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            peak, num_samples = max(peak, tree_bytes(process.pid)), num_samples + 1
            try:
                process.wait(INTERVAL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak, num_samples


def tree_bytes(pid: int) -> int:
    """The sum of PSS over a process and its descendants; those that just ended count nothing."""
    try:
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_proportional_bytes, processes))


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
