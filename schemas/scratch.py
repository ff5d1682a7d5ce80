"""Scratch: temporary folders that go with the process that made them."""

import atexit
import shutil
from functools import cache
from tempfile import mkdtemp


@cache
def scratch_folder(prefix: str) -> str:
    """This process's folder of a name; a process that is killed leaves it behind."""
    folder = mkdtemp(prefix=prefix)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
