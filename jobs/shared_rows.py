"""Shared rows: a sparse matrix in flat files that all worker processes of a machine map.

One copy in the page cache serves every process, and a task that needs some rows of a matrix larger
than memory touches only their pages.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

Rows = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]
"""CSR of R rows: row ends (R + 1 long, from 0), columns and values."""


@dataclass(frozen=True)
class SharedRows:
    """The files `<name>.ends`, `.columns` and `.values` of a folder; written once, by one task."""

    folder: Path
    name: str

    def append(self, pieces: Iterable[Rows]) -> None:
        """Writes all rows, in consecutive pieces; never more than one piece is in memory."""
        ends = [np.zeros(1, np.int64)]
        with self._path("columns").open("wb") as columns, self._path("values").open("wb") as values:
            for piece_ends, piece_columns, piece_values in pieces:
                ends.append(ends[-1][-1] + piece_ends[1:])
                columns.write(np.ascontiguousarray(piece_columns, np.int32).data)
                values.write(np.ascontiguousarray(piece_values, np.float64).data)
        np.concatenate(ends).tofile(self._path("ends"))

    def scatter(
        self, lengths: NDArray[np.int64], pieces: Iterable[tuple[NDArray[np.int32], Rows]]
    ) -> None:
        """Writes rows of known lengths in any order: pieces of (row numbers, rows)."""
        ends = np.concatenate([[0], np.cumsum(lengths)])
        ends.tofile(self._path("ends"))
        columns = self._map("columns", np.int32, int(ends[-1]))
        values = self._map("values", np.float64, int(ends[-1]))
        for numbers, rows in pieces:
            _scatter(numbers, *rows, ends, columns, values)

    def open(self) -> Rows:
        """The whole matrix, mapped read-only."""
        kinds = {"ends": np.int64, "columns": np.int32, "values": np.float64}
        ends, columns, values = (self._map(part, kind) for part, kind in kinds.items())
        return ends, columns, values

    def num_bytes(self) -> int:
        """What one copy of the matrix takes."""
        return sum(self._path(part).stat().st_size for part in ("ends", "columns", "values"))

    def delete(self) -> None:
        """Removes the files; processes that have mapped them keep what they see."""
        for part in ("ends", "columns", "values"):
            self._path(part).unlink()

    def _map(self, part: str, kind: Any, new_size: int | None = None) -> NDArray[Any]:
        path = self._path(part)
        if new_size is None:
            new_size = path.stat().st_size // np.dtype(kind).itemsize
            mode: Literal["r", "w+"] = "r"
        else:
            mode = "w+"
        # A file without bytes cannot be mapped.
        if not new_size:
            path.touch()
            return np.empty(0, kind)
        return np.asarray(np.memmap(path, kind, mode, shape=(new_size,)))

    def _path(self, part: str) -> Path:
        return self.folder / f"{self.name}.{part}"


@njit(cache=True)
def _scatter(  # type: ignore[no-untyped-def]
    numbers, ends, columns, values, all_ends, all_columns, all_values
):
    for row in range(len(numbers)):
        start, to = ends[row], all_ends[numbers[row]]
        for at in range(ends[row + 1] - start):
            all_columns[to + at] = columns[start + at]
            all_values[to + at] = values[start + at]
