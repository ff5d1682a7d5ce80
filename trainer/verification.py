"""Verification: whether aliases, versions, artifacts, the gate's ledger and the journal agree."""

from collections.abc import Iterator
from dataclasses import dataclass

import mlflow

from schemas.errors import PenumbraError, without_passwords
from trainer.journal import Journal
from trainer.ledger import last_promotion
from trainer.operations import has_ever_passed
from trainer.registry import CANDIDATE, PREVIOUS, Registry
from trainer.versions import CHAMPION, Version

COMMAND = "python -m trainer.registry"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and the command or act that mends it."""

    wrong: str
    mend: str


def verify(registry: Registry) -> tuple[list[Finding], Version | None]:
    """Everything that is wrong, nothing where all agree, and the champion. Changes nothing.

    Every artifact that an alias names is downloaded and its weights' digest compared.
    """
    findings, aliases = [], dict[str, Version]()
    for alias in (CHAMPION, PREVIOUS, CANDIDATE):
        try:
            version = registry.aliased(alias)
            if version:
                aliases[alias] = version
                registry.download(version)
        except PenumbraError as error:
            findings.append(_finding(f"{alias}: {error.found}", error))
    findings += [*_journal(registry, aliases), *_ledger(registry, aliases)]
    return findings, aliases.get(CHAMPION)


def _journal(registry: Registry, aliases: dict[str, Version]) -> Iterator[Finding]:
    journal = Journal(registry.root)
    try:
        moves, pending = journal.moves(), journal.pending()
    except PenumbraError as error:
        yield _finding(error.found, error)
        return
    if pending:
        wrong = f"{pending.action} of version {pending.version} was interrupted"
        # Where nothing is held, `release` changes nothing but what it finishes.
        change = "hold" if journal.hold() else "release"
        yield Finding(wrong, f"{COMMAND} {change} --reason interrupted, which finishes it")
    elif moves:
        expected = {CHAMPION: moves[-1].version, PREVIOUS: moves[-1].replaces}
        for alias, number in expected.items():
            found = aliases[alias].number if alias in aliases else None
            if found != number:
                wrong = f"{alias} is version {found}, the journal's last move left {number}"
                yield Finding(wrong, _set_alias(registry, alias, number))


def _ledger(registry: Registry, aliases: dict[str, Version]) -> Iterator[Finding]:
    champion = aliases.get(CHAMPION)
    try:
        promoted = last_promotion(registry.root)
        if promoted:
            registry.get(promoted["candidate_version"])
        has_record = champion is None or has_ever_passed(registry, champion)
    except PenumbraError as error:
        yield _finding(error.found, error)
        return
    if champion and not has_record:
        wrong = f"champion, version {champion.number}, has no gate record that passed"
        yield Finding(wrong, f"{COMMAND} rollback --reason 'no gate record'")


def _set_alias(registry: Registry, alias: str, number: int | None) -> str:
    """What MLflow is told to restore an alias that somebody moved past the journal."""
    uri, name = mlflow.get_tracking_uri(), registry.name
    is_secret = without_passwords(uri) != uri
    client = "MlflowClient()" if is_secret else f"MlflowClient({uri!r})"
    call = f"set_registered_model_alias({name!r}, {alias!r}, '{number}')"
    if number is None:
        call = f"delete_registered_model_alias({name!r}, {alias!r})"
    command = f'python -c "from mlflow import MlflowClient; {client}.{call}"'
    return command + (" with MLFLOW_TRACKING_URI set, which has a password" if is_secret else "")


def _finding(wrong: str, error: PenumbraError) -> Finding:
    return Finding(wrong, error.fix)
