"""Publishing: a dated partition becomes visible whole, or not at all.

A stage writes into the folder of a new run, which is audited, sealed with a manifest and made
current by replacing one pointer file (`schemas/partitions.py` shows the layout). A process
killed at any instant leaves readers on the complete old run or the complete new one.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.audit import audit, file_sha256
from schemas.contract import Contract
from schemas.errors import CorruptPartitionError, StaleWriterError
from schemas.partitions import (
    MANIFEST,
    POINTER,
    Input,
    Manifest,
    Partition,
    began,
    current_run,
    file_facts,
    partition_path,
)


@dataclass
class Draft:
    """A run in the making: a folder no reader sees until `publish` moves the pointer."""

    contract: Contract
    path: Path
    token: str
    notes: dict[str, Any] = field(default_factory=dict)

    def write(self, table: pa.Table) -> None:
        """Writes rows (sorted here by the contract's order) as the run's only part file."""
        table = table.select(list(self.contract.columns)).cast(self.contract.schema)
        table = table.sort_by([(name, "ascending") for name in self.contract.order])
        pq.write_table(table, self.path / "part-00000.parquet", compression="zstd")


def new_token(after: str = "") -> str:
    """A fencing token: later runs get greater ones (nanoseconds since 1970, then the process).

    Args:
        after: A token that this one must be greater than, even if the clock was set back; or none.
    """
    now = time.time_ns()
    if after:
        now = max(now, began(after) + 1)
    return f"{now:020d}-{os.getpid()}"


def draft(root: Path, contract: Contract, ds: date, token: str) -> Draft:
    """Makes the folder of a new run."""
    path = partition_path(root, contract, ds) / f"run={token}"
    made = [folder for folder in path.parents if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in made:  # else a night's first pointer could be durable in a folder that is not
        fsync(folder.parent)
    return Draft(contract, path, token)


def publish(
    run: Draft,
    ds: date,
    *,
    inputs: Sequence[Input] = (),
    fingerprint: str = "",
    seconds: float = 0.0,
) -> Partition:
    """Audits a draft, seals it with a manifest and moves the pointer to it.

    Args:
        run: The draft; its `part-*.parquet` files are rows, any other file an attachment.
        ds: The date of the partition.
        inputs: Everything the stage read (lineage).
        fingerprint: Digest of inputs, settings and code; equal means nothing to do.
        seconds: Wall time of the stage so far.

    Raises:
        ContractError: The rows break the contract; the pointer stays.
        StaleWriterError: A newer run was published meanwhile; the pointer stays.
    """
    files = sorted(run.path.glob("part-*.parquet"))
    others = sorted(f for f in run.path.iterdir() if f not in files)
    rows, content_digest = audit(run.contract, files)
    manifest = Manifest(
        table=run.contract.table,
        version=run.contract.version,
        ds=ds.isoformat(),
        run=run.token,
        stage=run.contract.stage,
        schema_digest=run.contract.schema_digest,
        content_digest=content_digest,
        rows=rows,
        files=[file_facts(f) | {"rows": pq.read_metadata(f).num_rows} for f in files],
        attachments=[file_facts(f) for f in others],
        inputs=[asdict(i) for i in inputs],
        fingerprint=fingerprint,
        seconds=round(seconds, 2),
        notes=run.notes,
    )
    for file in (*files, *others):
        fsync(file)
    text = json.dumps(asdict(manifest), indent=1)
    _write_durably(run.path / MANIFEST, text)
    fsync(run.path)
    _move_pointer(run, file_sha256(run.path / MANIFEST))
    return Partition(run.contract, run.path, manifest)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file while the block runs; a killed process releases it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _move_pointer(run: Draft, manifest_sha256: str) -> None:
    folder = run.path.parent
    with locked(folder / ".lock"):
        current = ""
        with suppress(CorruptPartitionError):  # this mends it
            current = current_run(folder)
        if current > run.token:
            raise StaleWriterError(
                f"run {current} of {folder} already published",
                f"no run newer than this one ({run.token})",
                "nothing to mend: the newer run stays; this one may be deleted",
            )
        text = json.dumps({"run": run.token, "manifest_sha256": manifest_sha256})
        _write_durably(folder / f".{POINTER}.{run.token}", text)
        (folder / f".{POINTER}.{run.token}").replace(folder / POINTER)
        fsync(folder)


def _write_durably(path: Path, text: str) -> None:
    path.write_text(text)
    fsync(path)


def fsync(path: Path) -> None:
    """Makes a file, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
