"""Decoding: what a raw file's name promises, and the error where its bytes do not keep it.

Bytes that cannot be decoded are the deliverer's fault, a DataError; a file that cannot be read
at all (no permission, a broken disk) stays an OSError, which may be over at the next try.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from schemas.audit import is_the_systems
from schemas.errors import DataError

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "json",
    ".jsonl.gz": "json",
    ".json": "json",
    ".json.gz": "json",
}
BLANK = "".join(map(chr, range(0x21)))
"""What Spark's CSV reader trims before it calls a line blank."""


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not blank, decoded strictly.

    Raises:
        DataError: The file cannot be decoded to its end.
    """
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8-sig") as file:
            yield from (line for line in file if line.strip(BLANK))
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Blames a Parquet file for what Arrow cannot make of its bytes.

    Raises:
        DataError: Arrow cannot decode them.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if is_the_systems(error):
            raise
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataError:
    """The error of a file that is not what its name says."""
    return DataError(
        f"{path}, which is not what its name says ({type(error).__name__}: {error})",
        f"one of {', '.join(FORMATS)}; text in UTF-8, JSON one object a line",
        "deliver the file again, or rename it",
    )
