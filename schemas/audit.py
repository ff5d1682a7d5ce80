"""Audit: reads what a stage wrote, once, and says whether it keeps its contract.

One streaming pass checks schema, nulls, NaN, ranges, order and key uniqueness, and computes
the content digest, so that nothing reaches the pointer unread.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.contract import Contract, Field
from schemas.errors import ContractError, CorruptPartitionError

BATCH_ROWS = 8_192
"""Rows per digested batch; part of the digest's definition."""


def audit(contract: Contract, files: Iterable[Path]) -> tuple[int, str]:
    """Checks Parquet files against a contract.

    Args:
        contract: What the rows must keep.
        files: Part files in the order of the key.

    Returns:
        The number of rows, and the content digest: a sha256 over the rows in order, equal for
        equal rows however they are spread over files and row groups.

    Raises:
        ContractError: Naming the column, what was found and what the contract says.
    """
    digest, rows, last = hashlib.sha256(), 0, None
    with pa.ipc.new_stream(pa.PythonFile(_HashSink(digest), mode="w"), contract.schema) as stream:
        for batch in _rebatch(_read(contract, files)):
            for field in contract.fields:
                _check_values(contract, field, batch.column(field.name))
            last = _check_order(contract, batch, last)
            stream.write_batch(batch.cast(contract.schema))
            rows += batch.num_rows
    if not rows and not contract.may_be_empty:
        raise ContractError(
            f"no row for {contract.table}",
            "at least one",
            f"what {contract.stage} reads; nothing is never published as success",
        )
    return rows, digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _HashSink:
    """The least of a file that Arrow's writer needs: everything written is hashed."""

    closed = False

    def __init__(self, digest: Any) -> None:
        self.digest = digest

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)

    def writable(self) -> bool:
        return True

    def flush(self) -> None: ...

    def close(self) -> None: ...


def is_the_systems(error: Exception) -> bool:
    """Whether what reading a file raised is no word about its bytes, and may pass.

    Arrow raises OSError for bad bytes, too, but only the system's errors have a number.
    """
    numbered = isinstance(error, OSError) and error.errno is not None
    return numbered or isinstance(error, MemoryError)


def _read(contract: Contract, files: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    expected = contract.schema
    for path in files:
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            if is_the_systems(error):
                raise
            raise CorruptPartitionError(
                f"{path} is not readable as Parquet ({error})",
                "a Parquet file",
                f"re-run {contract.stage}",
            ) from error
        with file:
            found = file.schema_arrow.remove_metadata()
            if found.names != expected.names or not _same_types(found, expected):
                raise ContractError(
                    f"{contract.table} with columns {_describe(found)} in {path}",
                    _describe(expected),
                    f"{contract.stage}, or bump the version in schemas/{contract.table}.py",
                )
            yield from file.iter_batches(batch_size=BATCH_ROWS)


def _same_types(found: pa.Schema, expected: pa.Schema) -> bool:
    """Equal types column by column; nullability is checked by value, not by declaration."""
    return all(_plain(f.type) == _plain(e.type) for f, e in zip(found, expected, strict=True))


def _plain(type: pa.DataType) -> str:
    """A type without what Parquet writers spell differently: list element names, nullability."""
    if pa.types.is_list(type):
        return f"list<{_plain(type.value_type)}>"
    return str(type)


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name} {_plain(f.type)}" for f in schema)


def _rebatch(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly `BATCH_ROWS`, the last one shorter."""
    held: list[pa.RecordBatch] = []
    num_held = 0
    for batch in batches:
        held.append(batch)
        num_held += batch.num_rows
        while num_held >= BATCH_ROWS:
            table = pa.Table.from_batches(held).combine_chunks()
            yield table.slice(0, BATCH_ROWS).combine_chunks().to_batches()[0]
            held = table.slice(BATCH_ROWS).to_batches()
            num_held -= BATCH_ROWS
    if num_held:
        yield pa.Table.from_batches(held).combine_chunks().to_batches()[0]


def _check_values(contract: Contract, field: Field, column: pa.Array) -> None:
    problem = None
    if not field.nullable and column.null_count:
        problem = f"{column.null_count} nulls"
    values = column.flatten() if pa.types.is_list(column.type) else column
    if pa.types.is_list(column.type) and values.null_count:
        problem = f"{values.null_count} nulls inside its lists"
    if pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py():
        problem = "NaN"
    if field.at_least is not None or field.at_most is not None:
        low, high = pc.min_max(values).as_py().values()
        if low is not None and field.at_least is not None and low < field.at_least:
            problem = f"a least value of {low}"
        if high is not None and field.at_most is not None and high > field.at_most:
            problem = f"a greatest value of {high}"
    if field.one_of:
        unknown = set(pc.unique(values).to_pylist()) - set(field.one_of)
        problem = f"the values {sorted(map(str, unknown))}" if unknown else problem
    if problem:
        raise ContractError(
            f"{problem} in {contract.table}.{field.name}",
            field.limits or f"{field.type}{'' if field.nullable else ', never null or NaN'}",
            contract.stage,
        )


def _check_order(
    contract: Contract, batch: pa.RecordBatch, last: pa.RecordBatch | None
) -> pa.RecordBatch | None:
    """Checks that keys strictly increase, from the batch before on; returns the last row."""
    if not contract.key or not batch.num_rows:
        return last
    keys = batch.select(list(contract.key))
    if last is not None:
        joined = pa.Table.from_batches([last, keys]).combine_chunks()
        keys = joined.to_batches()[0]
    before, after = keys.slice(0, keys.num_rows - 1), keys.slice(1)
    increases = pa.array([False] * before.num_rows, pa.bool_())
    for name in reversed(contract.key):
        a, b = before.column(name), after.column(name)
        increases = pc.or_(pc.less(a, b), pc.and_(pc.equal(a, b), increases))
    if not pc.all(increases, min_count=0).as_py():
        row = cast(int, pc.index(increases, False).as_py())
        raise ContractError(
            f"key {before.slice(row, 1).to_pylist()[0]} followed by "
            f"{after.slice(row, 1).to_pylist()[0]} in {contract.table}",
            f"strictly increasing, unique keys {contract.key}",
            contract.stage,
        )
    return keys.slice(keys.num_rows - 1)
