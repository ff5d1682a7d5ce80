"""Command: what every stage's command line has in common.

`python -m jobs.item_graph --ds 2017-10-31 [--root var] [--settings pipeline.toml] [--force]`

A stage declares what it reads and writes (`Stage`); `run` parses, resolves the inputs, skips
the work where inputs, settings and code are those of what is published already, prints one
closing line per table, and turns errors into one line on stderr and an exit code.
"""

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from schemas.collector import at_work
from schemas.command_line import Parser, parse_date
from schemas.contract import Contract
from schemas.errors import CorruptPartitionError, PenumbraError, StaleWriterError, UsageError
from schemas.events import EVENTS
from schemas.partitions import (
    MANIFEST,
    Input,
    Partition,
    current_run,
    day_of,
    find,
    partition_path,
)
from schemas.process import die_with_parent
from schemas.publishing import Draft, draft, new_token, publish
from schemas.settings import Settings, load


@dataclass(frozen=True)
class Stage:
    """What a stage's program declares about itself.

    `inputs` resolves everything it will read, verified; `settings` are the sections it uses.
    `always` stages decide by themselves whether anything is left to do; `options` adds arguments
    of the stage's own to its command line.
    """

    module: str
    doc: str
    writes: tuple[Contract, ...]
    inputs: Callable[[Path, date, Settings], Sequence[Input]]
    settings: tuple[str, ...]
    always: bool = False
    options: Callable[[argparse.ArgumentParser], Any] = lambda parser: None


@dataclass
class Night:
    """One run of one stage: where, when, with what, and how to publish what it made."""

    root: Path
    ds: date
    settings: Settings
    inputs: Sequence[Input]
    fingerprint: str
    token: str
    started: float
    options: argparse.Namespace = field(default_factory=argparse.Namespace)
    """The whole command line, with the stage's own arguments."""
    drafts: list[Draft] = field(default_factory=list)
    """Those that are not published."""

    def draft(self, contract: Contract, ds: date | None = None) -> Draft:
        """A new run's folder for a table, by default of this night's date."""
        self.drafts.append(draft(self.root, contract, ds or self.ds, self.token))
        return self.drafts[-1]

    def discard_drafts(self) -> None:
        """Deletes what was begun and not published: a failed try leaves nothing."""
        for begun in self.drafts:
            # What failed may have been the step after the pointer moved.
            if _current_run(begun.path.parent) != begun.token:
                shutil.rmtree(begun.path, ignore_errors=True)

    def publish(
        self, run: Draft, ds: date | None = None, inputs: Sequence[Input] | None = None
    ) -> Partition:
        """Audits, seals and makes current; prints the closing line.

        Raises:
            ContractError: The rows break the contract.
            StaleWriterError: A newer run was published meanwhile, of this table or of an input.
        """
        refuse_replaced(self.root, self.inputs)
        partition = publish(
            run,
            ds or self.ds,
            inputs=self.inputs if inputs is None else inputs,
            fingerprint=self.fingerprint,
            seconds=time.monotonic() - self.started,
        )
        self.drafts = [begun for begun in self.drafts if begun.path != run.path]
        print(closing_line(partition), flush=True)
        return partition


def refuse_replaced(root: Path, inputs: Sequence[Input]) -> None:
    """Refuses to go on where an input was published anew, with other rows, since it was resolved.

    What was read might not be what the lineage names.

    Raises:
        StaleWriterError: Naming the first.
    """
    for item in inputs:
        for version in (root / "tables" / item.table).glob("v*"):
            folder = version / f"ds={item.ds}"
            current = current_run(folder) if (folder / f"run={item.run}").is_dir() else ""
            if current in ("", item.run):
                continue
            facts = json.loads((folder / f"run={current}" / MANIFEST).read_text())
            if facts["content_digest"] != item.digest:
                raise StaleWriterError(
                    f"run {current} of {folder}, published while {item.run} was in use",
                    "inputs that stay until their stage has ended",
                    "repeat the night; and see who else runs stages on this root",
                )


def closing_line(partition: Partition, state: str = "published") -> str:
    """`item_graph 2017-10-31: published 51,440 rows in 8.1 s, digest 3f2a…`."""
    m = partition.manifest
    return (
        f"{m.table} {m.ds}: {state} {m.rows:,} rows in {m.seconds:.1f} s, "
        f"digest {m.content_digest[:12]}"
    )


@at_work()
def run(stage: Stage, main: Callable[[Night], Any]) -> NoReturn:
    """Runs a stage from its command line and exits.

    Exit code 0 when published or already up to date, 64-78 for usage and data errors with one
    line on stderr, 1 for anything else.
    """
    die_with_parent()
    try:
        _run(stage, main, _parse(stage))
    except PenumbraError as error:
        fail(stage, error)
    sys.exit(0)


def fail(stage: Stage, error: PenumbraError) -> NoReturn:
    """Ends a stage with the one line that its error owes, and its exit code."""
    print(f"{stage.module}: {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _run(stage: Stage, main: Callable[[Night], Any], arguments: argparse.Namespace) -> None:
    started, root, ds = time.monotonic(), arguments.root.resolve(), arguments.ds
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}, which is a file", "a folder, or nothing yet", "--root")
    token = new_token(max(_current_runs(root, stage.writes), default=""))
    settings = load(arguments.settings)
    inputs = list(stage.inputs(root, ds, settings))
    fingerprint = _fingerprint(stage, settings, inputs)
    if not (stage.always or arguments.force):
        published = [find_own(root, contract, ds) for contract in stage.writes]
        if all(p is not None and p.manifest.fingerprint == fingerprint for p in published):
            for partition in filter(None, published):
                print(closing_line(partition, "unchanged since"), flush=True)
            return
    night = Night(root, ds, settings, inputs, fingerprint, token, started, arguments)
    try:
        main(night)
    finally:
        night.discard_drafts()


def _current_runs(root: Path, contracts: Sequence[Contract]) -> Iterator[str]:
    """The tokens of all nights of some tables: a stage may publish earlier ones beside its own."""
    for contract in contracts:
        for folder in partition_path(root, contract, date.min).parent.glob("ds=*"):
            if day_of(folder.name):  # not a backup beside it
                yield _current_run(folder)


def _current_run(folder: Path) -> str:
    """The token of what is published; empty where nothing is, or its pointer is damaged."""
    try:
        return current_run(folder)
    except CorruptPartitionError:
        return ""


def find_own(root: Path, contract: Contract, ds: date) -> Partition | None:
    """What a stage has published itself; None where it is missing or damaged: it makes it anew."""
    try:
        return find(root, contract, ds)
    except CorruptPartitionError as error:
        print(f"{contract.table} {ds} is damaged and made anew: {error.found}", flush=True)
        return None


def _fingerprint(stage: Stage, settings: Settings, inputs: Sequence[Input]) -> str:
    """Digest of everything that decides the output: inputs, settings, contracts, code."""
    digest = hashlib.sha256(settings.digest(stage.settings).encode())
    # The name of a raw file is in the rows of quarantine.
    named = [(i.table, i.ds, i.digest, i.run if i.table == EVENTS.table else "") for i in inputs]
    for item in sorted(named):
        digest.update(repr(item).encode())
    for contract in stage.writes:
        digest.update(contract.schema_digest.encode())
    project = Path(__file__).parent.parent
    for package in (stage.module.split(".")[0], "schemas"):
        for file in sorted((project / package).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _parse(stage: Stage) -> argparse.Namespace:
    parser = Parser(
        prog=f"python -m {stage.module}",
        description=stage.doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ds", required=True, type=partial(parse_date, "--ds"), help="the night's date, YYYY-MM-DD"
    )
    parser.add_argument("--root", default="var", type=Path, help="folder of all tables (var)")
    parser.add_argument("--settings", type=Path, help="a TOML file (pipeline.toml)")
    parser.add_argument("--force", action="store_true", help="work even where nothing changed")
    stage.options(parser)
    return parser.parse_args()
