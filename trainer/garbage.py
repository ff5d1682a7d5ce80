"""Garbage: what nothing needs any more, found and deleted.

Runs that no pointer names, pointers that were never moved, staged rows and resume states that
nobody went on with, all once they are old enough that no process can be at work in them; the
artifacts of model versions beyond the newest few; and, where asked for, what is largest of nights
long ago and no later night reads. A run's manifest stays, and a version with its tags: ledgers name
it, and `explain` can still say where it came from.

Champion, previous and candidate keep everything: artifact, and every run their lineage names.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from stat import S_ISREG

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from schemas.partitions import MANIFEST, POINTER, current_run, day_of
from schemas.publishing import locked
from trainer.explanation import lineage
from trainer.operations import exclusive
from trainer.registry import CANDIDATE, DELETED, PREVIOUS, Registry
from trainer.versions import CHAMPION, Version


@dataclass(frozen=True)
class Garbage:
    """One thing that may go: a folder or file under the root, or a version's artifact."""

    name: str
    bytes: int
    path: Path | None = None
    version: Version | None = None
    is_current: bool = False
    """Whether a pointer names it: its stage makes it anew when its night is repeated."""


OF_THEIR_NIGHT = ("sequences", "item_graph", "soft_targets")
"""The largest tables; only stages of the same night read them."""


def collect(
    registry: Registry,
    *,
    older_than: timedelta,
    keep_versions: int,
    keep_days: int | None = None,
    dry_run: bool,
) -> list[Garbage]:
    """Deletes garbage, or with `dry_run` only finds it.

    Args:
        registry: Its root's tables and its versions are looked at.
        older_than: Since the last change of a folder; longer than any stage runs.
        keep_versions: Newest versions that keep their artifact, whatever their aliases.
        keep_days: Nights up to the newest that keep all of their tables; None keeps all nights'.
        dry_run: Deletes nothing.

    Returns:
        What was, or would be, deleted.

    Raises:
        RegistryError: The lineage of a version that serves cannot be followed.
    """
    with exclusive(registry, dry_run=dry_run):
        aliased = {a.number: a for a in map(registry.aliased, (CHAMPION, PREVIOUS, CANDIDATE)) if a}
        needed = {(i.table, i.ds, i.run) for v in aliased.values() for i in lineage(registry, v)}
        limit = time.time() - older_than.total_seconds()
        found = [*_old_files(registry.root, needed, limit)]
        found += _old_nights(registry.root, needed, limit, keep_days) if keep_days else []
        found += _old_versions(registry, set(aliased), keep_versions)
        return found if dry_run else [one for one in found if _delete(registry, one)]


def _old_files(root: Path, needed: set[tuple[str, str, str]], limit: float) -> Iterator[Garbage]:
    for staging in sorted((root / "tables").glob("*/v*/_staging-*")):
        yield from _if_old(root, staging, limit)
    for folder in sorted((root / "tables").glob("*/v*/ds=*")):
        if not day_of(folder.name):
            continue  # somebody's own copy
        table, ds = folder.parent.parent.name, folder.name.removeprefix("ds=")
        pointer = folder / POINTER
        # A run is as old as what replaced it: until then it was read.
        is_replaced_lately = pointer.exists() and pointer.stat().st_mtime >= limit
        for run in sorted(folder.glob("run=*")):
            name = run.name.removeprefix("run=")
            is_current = name == current_run(folder)
            if not is_current and not is_replaced_lately and (table, ds, name) not in needed:
                yield from _if_old(root, run, limit)
        for unmoved in sorted(folder.glob(f".{POINTER}.*")):
            yield from _if_old(root, unmoved, limit)
    for state in sorted((root / "resume").glob("*/ds=*/*")):
        yield from _if_old(root, state, limit)


def _old_nights(
    root: Path, needed: set[tuple[str, str, str]], limit: float, keep_days: int
) -> Iterator[Garbage]:
    for table in OF_THEIR_NIGHT:
        folders = sorted((root / "tables" / table).glob("v*/ds=*"))
        days = {folder: day for folder in folders if (day := day_of(folder.name))}
        for folder, day in days.items():
            run = current_run(folder)
            is_kept = (max(days.values()) - day).days < keep_days
            if run and not is_kept and (table, day.isoformat(), run) not in needed:
                for found in _if_old(root, folder / f"run={run}", limit):
                    yield replace(found, is_current=True)


def _if_old(root: Path, path: Path, limit: float) -> Iterator[Garbage]:
    try:
        facts = {file: file.stat() for file in (path, *path.rglob("*"))}
    except FileNotFoundError:
        return  # a stage is at work in it
    going = {f: x.st_size for f, x in facts.items() if S_ISREG(x.st_mode) and f.name != MANIFEST}
    is_collected = path / MANIFEST in facts and not going
    if max(x.st_mtime for x in facts.values()) < limit and not is_collected:
        yield Garbage(str(path.relative_to(root)), sum(going.values()), path)


def _old_versions(registry: Registry, aliased: set[int], keep: int) -> Iterator[Garbage]:
    versions = sorted(registry.versions(), key=lambda version: version.number)
    for version in versions[: max(len(versions) - keep, 0)]:
        if version.number not in aliased:
            size = _bytes_of(_artifacts(registry, version))
            if size:
                yield Garbage(f"artifact of version {version.number}", size, version=version)


def _artifacts(registry: Registry, version: Version) -> ArtifactRepository:
    """The folder of one version's logged model; nothing else lies in it."""
    found = registry.client.get_model_version(registry.name, str(version.number))
    model = registry.client.get_logged_model(found.source.removeprefix("models:/"))
    return get_artifact_repository(model.artifact_location)


def _bytes_of(artifacts: ArtifactRepository, path: str | None = None) -> int:
    listed = artifacts.list_artifacts(path)
    return sum(_bytes_of(artifacts, f.path) if f.is_dir else f.file_size or 0 for f in listed)


def _delete(registry: Registry, garbage: Garbage) -> bool:
    """Deletes one thing; false where it was published meanwhile."""
    if garbage.version:
        registry.tag(garbage.version, {DELETED: "by collect-garbage"})
        _artifacts(registry, garbage.version).delete_artifacts()
    elif garbage.path and garbage.path.is_dir():
        if not garbage.path.name.startswith("run="):
            shutil.rmtree(garbage.path)
            return True
        folder = garbage.path.parent
        with locked(folder / ".lock"):
            is_current = garbage.path.name == f"run={current_run(folder)}"
            if is_current and not garbage.is_current:
                return False
            _delete_run(garbage.path)
    elif garbage.path:
        garbage.path.unlink(missing_ok=True)
    return True


def _delete_run(folder: Path) -> None:
    """Deletes a run but for its manifest; a draft that has none goes altogether."""
    if not (folder / MANIFEST).exists():
        return shutil.rmtree(folder)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != MANIFEST:
            path.unlink()
