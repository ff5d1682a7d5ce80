"""Partitions: how a published date of a table is found, verified and read.

    <root>/tables/<table>/v1/ds=2017-10-31/
        CURRENT                        pointer to one run, replaced atomically
        run=<token>/manifest.json      what was published: digests, rows, files, lineage
        run=<token>/part-00000.parquet immutable

Readers go through the pointer and verify the manifest: a missing, extra or changed file is
an error that names it. `schemas/publishing.py` is the writing half.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.audit import file_sha256
from schemas.contract import Contract
from schemas.errors import CorruptPartitionError, DataError, MissingInputError

POINTER, MANIFEST = "CURRENT", "manifest.json"


@dataclass(frozen=True)
class Input:
    """One thing a stage read: a partition, a raw file or a registered model."""

    table: str
    ds: str
    run: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What was published: enough to verify every byte and to trace every input."""

    table: str
    version: int
    ds: str
    run: str
    stage: str
    schema_digest: str
    content_digest: str
    rows: int
    files: list[dict[str, Any]]
    attachments: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[dict[str, str]] = field(default_factory=list)
    fingerprint: str = ""
    seconds: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Partition:
    """One published run of one table and date, verified file by file."""

    contract: Contract
    path: Path
    manifest: Manifest

    @property
    def ds(self) -> date:
        """The night it was published for."""
        return date.fromisoformat(self.manifest.ds)

    @property
    def files(self) -> list[Path]:
        """Part files in key order."""
        return [self.path / f["name"] for f in self.manifest.files]

    def attachment(self, name: str) -> Path:
        """The path of a file published beside the rows, such as weights."""
        return self.path / name

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows in key order, with the contract's types."""
        schema = self.contract.schema
        wanted = list(columns or schema.names)
        tables = [pq.ParquetFile(f).read(columns=wanted) for f in self.files]
        return pa.concat_tables(tables).cast(pa.schema([schema.field(n) for n in wanted]))

    def batches(
        self, columns: Sequence[str] | None = None, num_rows: int = 4096
    ) -> Iterator[pa.Table]:
        """The rows as `read` gives them, at most `num_rows` in memory at a time."""
        schema = self.contract.schema
        wanted = list(columns or schema.names)
        chosen = pa.schema([schema.field(n) for n in wanted])
        for path in self.files:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(num_rows, columns=wanted):
                    yield pa.Table.from_batches([batch]).cast(chosen)

    def as_input(self) -> Input:
        """This partition as a line of lineage."""
        m = self.manifest
        return Input(m.table, m.ds, m.run, m.content_digest)


def refuse_other_source(partition: Partition, *sources: Partition) -> None:
    """Refuses a table that was made from other rows than those now published beside it.

    Its item indices, or its users' positions, would be those of another night's work.

    Raises:
        DataError: Its lineage names another content of one of these tables.
    """
    m = partition.manifest
    for source in sources:
        found = {i["digest"] for i in m.inputs if i["table"] == source.manifest.table}
        if found - {source.manifest.content_digest}:
            raise DataError(
                f"{m.table} of {m.ds} made from {source.manifest.table} {min(found)[:12]}",
                f"from what is published, {source.manifest.content_digest[:12]}",
                f"re-run python -m {m.stage} --ds {m.ds}, and what follows it",
            )


def partition_path(root: Path, contract: Contract, ds: date) -> Path:
    """The folder that holds a date's pointer and runs."""
    return root / "tables" / contract.table / f"v{contract.version}" / f"ds={ds.isoformat()}"


def current_run(folder: Path) -> str:
    """The run that a date's pointer names; empty where nothing was published.

    Raises:
        CorruptPartitionError: The pointer is no pointer.
    """
    try:
        return _read_pointer(folder, "restore the file, or, but for promotions, re-run its stage")[
            "run"
        ]
    except FileNotFoundError:
        return ""


def began(run: str) -> int:
    """When a run began, nanoseconds since 1970: what its token starts with.

    Raises:
        ValueError: It is no token of a run.
    """
    return int(run.split("-")[0])


def _read_pointer(folder: Path, mend: str) -> dict[str, str]:
    file = folder / POINTER
    try:
        pointer = json.loads(file.read_text())
        known = {name: str(pointer[name]) for name in ("run", "manifest_sha256")}
        began(known["run"])
        return known
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptPartitionError(f"{file} damaged", "a run and its digest", mend) from error


def find(root: Path, contract: Contract, ds: date) -> Partition | None:
    """The published partition of a date, verified; None where nothing was published.

    Raises:
        CorruptPartitionError: Naming the missing, extra or changed file.
    """
    folder = partition_path(root, contract, ds)
    try:
        pointer = _read_pointer(folder, contract.mend)
    except FileNotFoundError:
        return None
    path = folder / f"run={pointer['run']}"
    return Partition(contract, path, _verify(contract, path, pointer["manifest_sha256"]))


def get(root: Path, contract: Contract, ds: date) -> Partition:
    """The published partition of a date, verified.

    Raises:
        MissingInputError: Nothing was published for this date.
        CorruptPartitionError: Naming the missing, extra or changed file.
    """
    partition = find(root, contract, ds)
    if partition is None:
        raise MissingInputError(
            f"no {contract.table} of {ds}",
            f"{partition_path(root, contract, ds) / POINTER}",
            f"run python -m {contract.stage} --ds {ds}",
        )
    return partition


def replaced(root: Path, contract: Contract, ds: date) -> list[Partition]:
    """Whole runs of a date beside the current one, newest first; damaged ones are left out."""
    folder, found = partition_path(root, contract, ds), list[Partition]()
    current = current_run(folder)
    for path in sorted(folder.glob("run=*"), reverse=True):
        if path.name != f"run={current}" and (path / MANIFEST).is_file():
            with suppress(CorruptPartitionError):  # such as those whose rows were collected
                manifest = _verify(contract, path, file_sha256(path / MANIFEST))
                found.append(Partition(contract, path, manifest))
    return found


def published_dates(root: Path, contract: Contract) -> list[date]:
    """All dates with a pointer, oldest first.

    Raises:
        OSError: A folder may not be read: whether there is one, nobody knows.
    """
    folder = root / "tables" / contract.table / f"v{contract.version}"
    found = folder.iterdir() if folder.is_dir() else ()
    days = {path: day for path in found if (day := day_of(path.name))}
    return sorted(day for path, day in days.items() if (path / POINTER).exists())


def day_of(name: str) -> date | None:
    """The day of a folder `ds=2017-10-31`; None of any other, such as somebody's copy of one."""
    try:
        day = date.fromisoformat(name.removeprefix("ds="))
    except ValueError:
        return None
    return day if name == f"ds={day}" else None


def window(root: Path, contract: Contract, ds: date, days: int) -> list[Partition]:
    """The published partitions of the `days` days that end at `ds`, oldest first.

    Raises:
        MissingInputError: `ds` itself is not published.
    """
    start = ds - timedelta(days=days - 1)
    earlier = [d for d in published_dates(root, contract) if start <= d < ds]
    return [get(root, contract, d) for d in (*earlier, ds)]


def latest_before(root: Path, contract: Contract, ds: date) -> Partition | None:
    """The newest published partition older than `ds`, None where there is none."""
    earlier = [d for d in published_dates(root, contract) if d < ds]
    return find(root, contract, earlier[-1]) if earlier else None


def file_facts(file: Path) -> dict[str, Any]:
    """Name, size in bytes and sha256: what a manifest says of a file."""
    return {"name": file.name, "bytes": file.stat().st_size, "sha256": file_sha256(file)}


def _verify(contract: Contract, path: Path, manifest_sha256: str) -> Manifest:
    def corrupt(found: str) -> CorruptPartitionError:
        return CorruptPartitionError(
            found,
            "the files its manifest lists, unchanged",
            contract.mend,
        )

    if not (path / MANIFEST).is_file():
        raise corrupt(f"{path / MANIFEST} missing")
    if file_sha256(path / MANIFEST) != manifest_sha256:
        raise corrupt(f"{path / MANIFEST} changed")
    manifest = Manifest(**json.loads((path / MANIFEST).read_text()))
    if manifest.schema_digest != contract.schema_digest:
        raise corrupt(f"{path} written under another contract of {contract.table}")
    listed: Mapping[str, dict[str, Any]] = {
        f["name"]: f for f in (*manifest.files, *manifest.attachments)
    }
    found = {f.name for f in path.iterdir()} - {MANIFEST}
    for name in sorted(listed.keys() - found):
        raise corrupt(f"{path / name} missing")
    for name in sorted(found - listed.keys()):
        raise corrupt(f"{path / name}, which is not in the manifest")
    for name, facts in listed.items():
        if file_facts(path / name) != {k: facts[k] for k in ("name", "bytes", "sha256")}:
            raise corrupt(f"{path / name} changed")
    return manifest
