"""Flat files: arrays that grow in a temporary file and are read through memory-mapping.

What is as long as a night's history is kept in them, so that memory does not grow with it: the
kernel keeps their pages while there is room and drops them where there is none.
"""

import tempfile
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike


class FlatFile:
    """One array on disk that nobody else sees; it is gone with the last reader.

    Args:
        dtype: Of its entries.
        folder: Where there is room for it; None takes the system's temporary folder.
    """

    def __init__(self, dtype: DTypeLike, folder: Path | None = None) -> None:
        self.dtype, self.size = np.dtype(dtype), 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open while this lives
        weakref.finalize(self, self._file.close)

    def append(self, values: ArrayLike) -> None:
        """Writes values behind the last; they are cast to the file's type."""
        array = np.ascontiguousarray(values, self.dtype)
        self._file.write(array.data)
        self.size += array.size

    def mapped(self) -> np.ndarray:
        """All entries [size]; nothing may be appended afterwards.

        Writing into the array changes this array alone, never the file.
        """
        if self.size == 0:
            return np.empty(0, self.dtype)
        self._file.flush()
        return np.asarray(np.memmap(self._file, self.dtype, "c", shape=(self.size,)))
