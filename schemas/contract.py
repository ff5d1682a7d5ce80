"""Contract: what one table promises to everyone who reads it.

A contract is a pyarrow schema with a sentence per column, a version, a key and value ranges.
The Spark type (`jobs/spark.py`), the audit before publishing (`schemas/audit.py`) and
`docs/tables.md` are derived from it; nothing is written down twice.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

PADDING_INDEX = 0
"""The `item_index` that stands for no item; real items count from 1."""

TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Field:
    """One column: its name, Arrow type, meaning and the values it may hold."""

    name: str
    type: pa.DataType
    about: str
    nullable: bool = False
    at_least: float | None = None
    at_most: float | None = None
    one_of: tuple[str, ...] = ()

    @property
    def limits(self) -> str:
        """The allowed values in words, empty where the type says it all."""
        parts = []
        if self.at_least is not None:
            parts.append(f"≥ {self.at_least:g}")
        if self.at_most is not None:
            parts.append(f"≤ {self.at_most:g}")
        if self.one_of:
            parts.append("one of " + ", ".join(self.one_of))
        return ", ".join(parts)


def required(
    name: str,
    type: pa.DataType,
    about: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    one_of: tuple[str, ...] = (),
) -> Field:
    """A column that is never null; floats in it are never NaN. Limits hold inside lists too."""
    return Field(name, type, about, False, at_least, at_most, one_of)


def optional(name: str, type: pa.DataType, about: str) -> Field:
    """A column that may be null."""
    return Field(name, type, about, nullable=True)


@dataclass(frozen=True)
class Contract:
    """One table: name, version, key, columns and the stage that writes it.

    Rows are stored in the order of `key`, strictly increasing: that makes uniqueness a check on
    neighbours and the content digest independent of how the rows are spread over files. A table
    without a key (`key=()`) holds its rows in the order of all columns, repeats allowed.
    """

    table: str
    version: int
    key: tuple[str, ...]
    fields: Sequence[Field]
    stage: str
    about: str
    may_be_empty: bool = False
    is_ledger: bool = False
    """Whether rows are only ever added, so that its stage cannot make them again."""

    @property
    def mend(self) -> str:
        """What to do about a file that is missing or damaged."""
        again = "" if self.is_ledger else f"re-run python -m {self.stage} for this date, or "
        return f"{again}restore the file"

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, nullability included, without metadata."""
        return pa.schema([pa.field(f.name, f.type, nullable=f.nullable) for f in self.fields])

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names in order; what a stage's last `select` names."""
        return tuple(f.name for f in self.fields)

    @property
    def order(self) -> tuple[str, ...]:
        """The columns rows are sorted by."""
        return self.key or self.columns

    @property
    def schema_digest(self) -> str:
        """sha256 of version, columns, types, nullability, limits and key."""
        parts = [f"{self.table} v{self.version} key={self.key}"]
        parts += [f"{f.name} {f.type} {f.nullable} {f.limits}" for f in self.fields]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
