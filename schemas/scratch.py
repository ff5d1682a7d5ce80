"""Scratch: temporary folders that go with the process that made them.

One that was killed leaves its folder behind, and whoever makes the next one removes it. They tell
by a lock in it, which the kernel lets go of with the process.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

PREFIX = "penumbra-"
LOCK_FILE = ".penumbra-scratch"


@cache
def scratch_folder(name: str = "") -> str:
    """This process's folder of a name, under the folder for temporary files."""
    remove_abandoned(Path(tempfile.gettempdir()))
    folder = tempfile.mkdtemp(prefix=f"{PREFIX}{name}")
    new = Path(folder, ".new")
    fcntl.flock(os.open(new, os.O_CREAT | os.O_WRONLY), fcntl.LOCK_EX)  # as long as the process
    new.rename(Path(folder, LOCK_FILE))  # nobody finds it before it is locked
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def remove_abandoned(temporary: Path) -> None:
    """Removes folders in one for temporary files whose processes have ended."""
    for lock in temporary.glob(f"{PREFIX}*/{LOCK_FILE}"):
        with suppress(OSError), lock.open() as file:  # another user's, or another's to remove
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
