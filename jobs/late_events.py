"""Late events: what was delivered for a day after its interactions were published."""

import json
from datetime import date, timedelta
from pathlib import Path

from jobs.event_files import event_folder, file_names
from schemas.audit import file_sha256
from schemas.command import Night
from schemas.errors import CorruptPartitionError
from schemas.events import EVENTS
from schemas.interactions import INTERACTIONS
from schemas.partitions import (
    MANIFEST,
    began,
    current_run,
    partition_path,
    published_dates,
)

NANOSECONDS = 1e9


def days_changed_since(night: Night) -> list[date]:
    """Earlier days of the window whose files are not those that were published.

    A day is published once; what was delivered after that is taken in where somebody says so. Only
    files that were written, or put in their place, since then are read.
    """
    first = night.ds - timedelta(days=night.settings.events.history_days - 1)
    done = [day for day in published_dates(night.root, INTERACTIONS) if first <= day < night.ds]
    return [day for day in done if _has_changed(night, day)]


def _has_changed(night: Night, day: date) -> bool:
    folder = event_folder(night.root, day, night.settings.events)
    published = partition_path(night.root, INTERACTIONS, day)
    try:
        run = current_run(published)
        manifest = json.loads((published / f"run={run}" / MANIFEST).read_text())
        since = began(run) / NANOSECONDS  # it read its files after that
    except (CorruptPartitionError, FileNotFoundError, ValueError):
        return False  # it is named by whoever reads it
    known = {of["run"]: of["digest"] for of in manifest["inputs"] if of["table"] == EVENTS.table}
    names = file_names(folder) if folder.is_dir() else []
    if {str(name) for name in names} != known.keys():
        return bool(names)
    return any(
        file_sha256(folder / name) != known[str(name)]
        for name in names
        if (folder / name).is_file() and _changed_at(folder / name) > since
    )


def _changed_at(file: Path) -> float:
    """When a file was written, or moved to where it is with the time that it had."""
    facts = file.stat()
    return max(facts.st_mtime, facts.st_ctime)
