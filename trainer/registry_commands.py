"""Registry: what serves, what has served, and the commands that change it.

    python -m trainer.registry status
    python -m trainer.registry rollback --reason "worse on Sundays"
    python -m trainer.registry promote 7 --reason "decided while held" --dry-run
    python -m trainer.registry verify --json

While the registry is held, nights train, score and register, and never promote; a rollback holds
it until `release`. A promotion needs a gate record that passed, against the current champion.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from schemas.command_line import Parser, existing_root
from schemas.errors import PenumbraError, RegistryError
from schemas.settings import load
from trainer import operations
from trainer.explanation import explain
from trainer.garbage import collect
from trainer.journal import Entry, Journal
from trainer.operations import Outcome
from trainer.registry import CANDIDATE, PREVIOUS, Registry
from trainer.verification import verify
from trainer.versions import CHAMPION, Version

Options = argparse.Namespace


def main(arguments: Sequence[str]) -> int:
    """Does what the command line asks for; the last line says what serves afterwards."""
    try:
        options = _parse(arguments)
        registry = Registry(existing_root(options.root), load(options.settings))
        options.run(registry, options)
    except PenumbraError as error:
        print(f"trainer.registry: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except MlflowException as error:
        print(f"trainer.registry: MLflow: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def serves(version: Version | None) -> str:
    """`serves: version 3 of 2017-10-31`."""
    return f"serves: version {version.number} of {version.ds}" if version else "serves: none"


def _status(registry: Registry, options: Options) -> None:
    journal = Journal(registry.root)
    aliases = {alias: registry.aliased(alias) for alias in (CHAMPION, PREVIOUS, CANDIDATE)}
    hold, pending = journal.hold(), journal.pending()
    facts: dict[str, Any] = {alias: _version_row(version) for alias, version in aliases.items()}
    facts |= {"hold": asdict(hold) if hold else None}
    facts |= {"interrupted": asdict(pending) if pending else None}
    candidate = aliases[CANDIDATE]
    record = operations.gate_record(registry, candidate) if candidate else None
    is_awaiting = record is not None and record["outcome"] == "awaiting"
    facts |= {"awaiting": candidate.number if candidate and is_awaiting else None}
    lines = [f"{alias}: {_described(version)}" for alias, version in aliases.items()]
    lines.append(f"held: since the {_line(hold)}" if hold else "held: no")
    if is_awaiting:
        lines.append("awaiting: a person's answer about the candidate, in Airflow")
    if pending:
        lines.append(f"interrupted: {_line(pending)}; the next change finishes it")
    _show(options, facts, lines, aliases[CHAMPION])


def _history(registry: Registry, options: Options) -> None:
    entries = [entry for entry in Journal(registry.root).entries() if not _is_second(entry)]
    facts = {"history": [asdict(entry) for entry in entries]}
    _show(options, facts, [_line(entry) for entry in entries], registry.champion())


def _is_second(entry: Entry) -> bool:
    return entry.state == "done" and entry.version is not None


def _promote(registry: Registry, options: Options) -> None:
    dry_run = options.dry_run
    outcome = operations.promote(registry, options.version, options.reason, dry_run=dry_run)
    _show_outcome(options, outcome)


def _rollback(registry: Registry, options: Options) -> None:
    dry_run = options.dry_run
    outcome = operations.rollback(registry, options.to, options.reason, dry_run=dry_run)
    _show_outcome(options, outcome)


def _hold(registry: Registry, options: Options) -> None:
    _show_outcome(options, operations.hold(registry, options.reason, dry_run=options.dry_run))


def _release(registry: Registry, options: Options) -> None:
    _show_outcome(options, operations.release(registry, options.reason, dry_run=options.dry_run))


def _verify(registry: Registry, options: Options) -> None:
    findings, champion = verify(registry)
    lines = [f"{finding.wrong}; mend: {finding.mend}" for finding in findings]
    facts = {"findings": [asdict(finding) for finding in findings]}
    _show(
        options,
        facts,
        lines or ["aliases, versions, artifacts, ledger and journal agree"],
        champion,
    )
    if findings:
        raise RegistryError(
            f"{len(findings)} findings", "aliases, artifacts and ledgers that agree", "see above"
        )


def _explain(registry: Registry, options: Options) -> None:
    facts = explain(registry, registry.get(options.version))
    lines = [f"{name}: {value}" for name, value in facts.items() if not isinstance(value, list)]
    lines += [" ".join(str(part) for part in table.values()) for table in facts["lineage"]]
    _show(options, facts, lines, registry.champion())


def _collect_garbage(registry: Registry, options: Options) -> None:
    found = collect(
        registry,
        older_than=timedelta(days=options.older_than_days),
        keep_versions=options.keep_versions,
        keep_days=options.keep_days,
        dry_run=options.dry_run,
    )
    total = sum(one.bytes for one in found)
    facts = {"deleted": [{"name": g.name, "bytes": g.bytes} for g in found], "bytes": total}
    did = "would delete" if options.dry_run else "deleted"
    lines = [f"{did} {one.name}, {one.bytes:,} bytes" for one in found]
    lines.append(f"{did} {len(found)} things, {total:,} bytes")
    _show(options, facts | {"dry_run": options.dry_run}, lines, registry.champion())


def _show_outcome(options: Options, outcome: Outcome) -> None:
    facts = {"outcome": outcome.words, "dry_run": options.dry_run}
    words = f"dry run, nothing changed: {outcome.words}" if options.dry_run else outcome.words
    _show(options, facts, [words], outcome.serves)


def _show(
    options: Options, facts: dict[str, Any], lines: Sequence[str], champion: Version | None
) -> None:
    if options.json:
        print(json.dumps(facts | {"serves": _version_row(champion)}, indent=2, allow_nan=False))
        return
    print("\n".join([*lines, serves(champion)]))


def _version_row(version: Version | None) -> dict[str, Any] | None:
    if version is None:
        return None
    dates = {"ds": version.ds.isoformat(), "trained_until": version.trained_until.isoformat()}
    return asdict(version) | dates


def _described(version: Version | None) -> str:
    if version is None:
        return "none"
    return f"version {version.number} of {version.ds}, trained until {version.trained_until}"


def _line(entry: Entry) -> str:
    moved = f" {entry.replaces or 'none'} to {entry.version}" if entry.version else ""
    return f"{entry.action}{moved} of {entry.at[:19]} by {entry.by}: {entry.reason}"


def _parse(arguments: Sequence[str]) -> Options:
    common = Parser(add_help=False)
    common.add_argument("--root", default="var", type=Path, help="folder of all tables (var)")
    common.add_argument("--settings", type=Path, help="a TOML file (pipeline.toml)")
    common.add_argument("--json", action="store_true", help="for programs")
    dry = Parser(add_help=False)
    dry.add_argument("--dry-run", action="store_true", help="say it and change nothing")
    changing = Parser(add_help=False, parents=[dry])
    changing.add_argument("--reason", required=True, type=_reason, help="kept in the journal")
    parser = Parser(
        prog="python -m trainer.registry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def command(run: Callable[[Registry, Options], None], about: str, *more: Parser) -> Parser:
        name = run.__name__.removeprefix("_").replace("_", "-")
        made = commands.add_parser(name, help=about, description=about, parents=[common, *more])
        made.set_defaults(run=run)
        return made

    command(_status, "what serves, what served before it, and whether a hold is on")
    command(_history, "every move of the champion, every hold and release, oldest first")
    explained = command(_explain, "where a version comes from, back to the event files")
    promoted = command(_promote, "make a version champion that the gate has passed", changing)
    back = command(
        _rollback,
        "go back to the champion before, or to a version that the gate has passed, and hold",
        changing,
    )
    command(_hold, "let nights promote nothing", changing)
    command(_release, "let nights promote again", changing)
    command(_verify, "whether aliases, versions, artifacts and ledgers agree")
    garbage = command(_collect_garbage, "delete what nothing that serves was made of", dry)
    garbage.add_argument("--older-than-days", type=_count, default=7, help="unchanged since (7)")
    garbage.add_argument("--keep-versions", type=_count, default=10, help="with artifacts (10)")
    about = (
        "of the newest nights with all tables; of older ones sequences, graph and soft targets go"
    )
    garbage.add_argument("--keep-days", type=_count, help=f"{about} (all)")
    for one in (explained, promoted):
        one.add_argument("version", type=int, help="a version's number")
    back.add_argument("--to", type=int, metavar="VERSION", help="what the champion replaced")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}, which is below 1")
    return int(text)


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty reason")
    return " ".join(text.split())
