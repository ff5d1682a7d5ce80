"""Event files: what raw files a day has, and their rows as one DataFrame of text.

Parquet, CSV and JSON lines, gzipped or not, mixed as they come. A file that is not what its name
says is an error that names it; a row that cannot be read is kept, for the quarantine.
"""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.decoding import FORMATS, decoding, lines, unreadable
from schemas.audit import file_sha256
from schemas.errors import DataError, MissingInputError
from schemas.events import EVENTS, REQUIRED_COLUMNS
from schemas.partitions import Input
from schemas.settings import EventsSettings

SAMPLE_LINES = 1_000
"""JSON lines whose keys stand for a file's columns; all do where no other columns may be."""

INTEGERS = {
    pa.int8(): "int",
    pa.int16(): "int",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.uint8(): "int",
    pa.uint16(): "int",
    pa.uint32(): "bigint",
    pa.uint64(): "decimal(20,0)",
}
ACCEPTED = {
    "user_id": ("text", "integer"),
    "item_id": ("text", "integer"),
    "event_time": ("timestamp", "date", "text"),
    "event_type": ("text", "integer", "null"),
    "weight": ("number", "integer", "text", "null"),
}
"""Kinds of Parquet columns that can be read without guessing (epochs have no unit, say)."""


@dataclass(frozen=True)
class EventFile:
    """One raw file of one day, looked at but not read.

    `columns` are those of the file, in its order; `types` are the known ones of a Parquet file
    with the Spark type to read each as.
    """

    day: date
    path: Path
    name: str
    format: str
    is_empty: bool
    columns: tuple[str, ...] = ()
    types: tuple[tuple[str, str], ...] = ()

    @property
    def extra_columns(self) -> list[str]:
        """Columns that the events contract does not know."""
        return sorted(set(self.columns) - set(EVENTS.columns))

    def as_input(self) -> Input:
        """This file as a line of lineage, with the sha256 of its bytes."""
        return Input(EVENTS.table, self.day.isoformat(), self.name, file_sha256(self.path))

    def count_rows(self) -> int:
        """Rows in the file, counted without Spark; blank lines are none.

        Raises:
            DataError: The file cannot be decoded to its end.
        """
        if self.format == "parquet":
            return pq.read_metadata(self.path).num_rows
        return max(0, sum(1 for _ in lines(self.path)) - (self.format == "csv"))


def event_folder(root: Path, day: date, settings: EventsSettings) -> Path:
    """The folder of a day's raw files."""
    return root / settings.path / f"ds={day.isoformat()}"


def event_files(root: Path, day: date, settings: EventsSettings) -> list[EventFile]:
    """The raw files of a day, in the order of their names.

    Names that start with `_` or `.` are not data, as everywhere around Spark.

    Raises:
        MissingInputError: The day's folder is missing, or holds no file or no row.
        DataError: A file is not of its format, lacks a column, has one of a wrong type, or has
            one too many where `events.extra_columns = "fail"`; or a link leads to no file.
    """
    folder = event_folder(root, day, settings)
    if not folder.is_dir():
        fix = f"deliver the events of {day}, or point events.path elsewhere"
        raise MissingInputError(f"no folder {folder}: {day} is missing", "one folder a day", fix)
    files = [_examine(day, folder, name, settings) for name in file_names(folder)]
    if all(file.is_empty for file in files):
        found = f"no row in the {len(files)} files of {folder}: {day} is empty"
        raise MissingInputError(found, "at least one event", f"deliver the events of {day}")
    for file in files:
        if file.extra_columns and settings.extra_columns == "fail":
            raise DataError(
                f"{file.path} with the unknown columns {', '.join(file.extra_columns)}",
                f"only {', '.join(EVENTS.columns)}",
                'the export, or set events.extra_columns = "ignore"',
            )
    return files


def file_names(folder: Path) -> list[Path]:
    """The data files of a day's folder, and its links, relative to it and in order.

    Raises:
        OSError: A folder may not be read, and nobody knows what else was delivered.
    """
    paths: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if name[0] not in "_."]
        shown = [name for name in files if name[0] not in "_."]
        paths += [Path(parent, name) for name in (*folders, *shown)]
    data = [path for path in paths if path.is_file() or path.is_symlink()]
    return sorted(path.relative_to(folder) for path in data)


def _raise(error: OSError) -> NoReturn:
    raise error


def _examine(day: date, folder: Path, name: Path, events: EventsSettings) -> EventFile:
    path = folder / name
    if not path.is_file():  # links to folders may lead in a circle, so nothing follows them
        fix = "deliver the files themselves, or hide the link from Penumbra with a leading _"
        raise DataError(f"{path}, a link that leads to no file", "files and folders", fix)
    suffix = next((s for s in sorted(FORMATS, key=len) if path.name.endswith(s)), None)
    if suffix is None:
        raise DataError(
            f"{path}, whose format its name does not tell",
            f"a name that ends with {', '.join(FORMATS)}",
            "rename the file, or hide it from Penumbra with a leading _",
        )
    if ":" in path.name:  # Hadoop's file systems take it for the end of a scheme
        fix = "rename the file, or hide it from Penumbra with a leading _"
        raise DataError(str(path), "a name without a colon, which Spark cannot read", fix)
    if FORMATS[suffix] == "parquet":
        return _examine_parquet(day, path, str(name))
    if FORMATS[suffix] == "csv":
        columns = _csv_columns(path)
    else:
        columns = _json_columns(path, SAMPLE_LINES if events.extra_columns == "ignore" else None)
    if columns:
        _check_columns(path, columns)
    num_heading = 1 if FORMATS[suffix] == "csv" else 0
    is_empty = next(islice(lines(path), num_heading, None), None) is None
    return EventFile(day, path, str(name), FORMATS[suffix], is_empty, columns)


def _examine_parquet(day: date, path: Path, name: str) -> EventFile:
    with decoding(path), pq.ParquetFile(path) as file:
        fields = list(file.schema_arrow)
        legacy = {c.path for c in map(file.schema.column, range(len(file.schema)))
                  if c.physical_type == "INT96"}  # fmt: skip
        is_empty = file.metadata.num_rows == 0
    _check_columns(path, columns := tuple(field.name for field in fields))
    types = []
    for field in fields:
        if field.name in ACCEPTED:
            kind, spark_type = _spark_type(field.type, field.name in legacy)
            if kind not in ACCEPTED[field.name]:
                raise DataError(
                    f"{path} with {field.name} of type {field.type}",
                    f"{' or '.join(ACCEPTED[field.name])}",
                    "the export's type of this column",
                )
            types += [(field.name, spark_type)] if kind != "null" else []
    return EventFile(day, path, name, "parquet", is_empty, columns, tuple(types))


def _spark_type(type: pa.DataType, is_int96: bool) -> tuple[str, str]:
    """The kind of a Parquet column, and the Spark type that reads it without loss."""
    kinds = pa.types
    if kinds.is_dictionary(type):
        return _spark_type(type.value_type, is_int96)
    if kinds.is_string(type) or kinds.is_large_string(type) or kinds.is_string_view(type):
        return "text", "string"
    if type in INTEGERS:
        return "integer", INTEGERS[type]
    if kinds.is_float32(type) or kinds.is_float64(type):
        return "number", str(type)
    if kinds.is_decimal128(type):
        return "number", f"decimal({type.precision},{type.scale})"
    if kinds.is_date32(type):
        return "date", "date"
    if kinds.is_timestamp(type) and type.unit == "ns" and not is_int96:
        return "timestamp", "bigint"
    if kinds.is_timestamp(type):
        return "timestamp", "timestamp" if type.tz or is_int96 else "timestamp_ntz"
    return ("null", "") if kinds.is_null(type) else ("other", "")


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    found = f"found the columns {', '.join(columns)}"
    for column in REQUIRED_COLUMNS:
        if column not in columns:
            raise DataError(
                f"{path} without the column {column} ({found})",
                f"{', '.join(REQUIRED_COLUMNS)}",
                "the export, or rename its column",
            )
    for column in EVENTS.columns:
        if columns.count(column) > 1:
            raise DataError(f"{path} with two columns {column} ({found})", "one", "the export")


def _csv_columns(path: Path) -> tuple[str, ...]:
    heading = next(lines(path), "")
    try:
        names = next(csv.reader([heading.rstrip("\r\n")]), [])
    except csv.Error as error:
        raise unreadable(path, error) from error
    return tuple(name.strip() for name in names)


def _json_columns(path: Path, num_lines: int | None) -> tuple[str, ...]:
    columns: dict[str, None] = {}
    line = None
    for line in islice(lines(path), num_lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # the second by brackets in brackets in brackets …
            continue
        columns |= dict.fromkeys(row) if isinstance(row, dict) else {}
    if line is not None and not columns:
        raise unreadable(path, ValueError("no line holds a JSON object"))
    return tuple(columns)
