"""Journal: every move of the registry's aliases, written down before it and after it.

`<root>/registry.jsonl` has one JSON object a line and is only ever appended. Each line carries
the sha256 of the line before it, so that a lost or changed line is found. Whoever moves an alias
holds the lock `<root>/registry.lock`: `flock` on the file system that all hosts share
(docs/decisions/0004), over NFS too; a killed process lets it go.

An intent without its done is of a process that was killed. Since nobody moves an alias without
the lock, nothing can have happened since, and the next one that takes the lock finishes it
(`trainer/operations.py`).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from schemas.errors import RegistryError
from schemas.publishing import fsync, locked

LOCK_FILE, JOURNAL_FILE = "registry.lock", "registry.jsonl"

Action = Literal["promote", "rollback", "hold", "release"]


@dataclass(frozen=True)
class Entry:
    """One line: what somebody is about to do, or has done."""

    action: Action
    state: Literal["intent", "done"]
    """Hold and release move nothing; they are done with their one line."""
    at: str
    """UTC, ISO 8601."""
    by: str
    """`night 2017-10-31`, or `operator`."""
    reason: str
    version: int | None = None
    """Champion afterwards; None where nothing moves."""
    replaces: int | None = None
    """Champion before; None without one."""
    before: str = ""
    """sha256 of the line before; empty in the first."""

    @property
    def as_hold(self) -> str:
        """What the line means while it holds the registry, in words."""
        return f"the registry is held since the {self.action} of {self.at} ({self.reason})"


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """The one lock of all who move an alias under this root, on whatever host."""
    with locked(root / LOCK_FILE):
        yield


@dataclass(frozen=True)
class Journal:
    """The journal of one root."""

    root: Path
    finished: Entry | None = None
    """What whoever holds the lock has finished for a killed process."""
    served: int | None = None
    """The champion before that; None without one."""

    @property
    def path(self) -> Path:
        """The file; missing before the first move."""
        return self.root / JOURNAL_FILE

    def entries(self) -> list[Entry]:
        """All lines, oldest first. What a kill left half-written at the end never took place.

        Raises:
            RegistryError: A line was lost, changed or added by hand.
        """
        entries, digest = [], ""
        for number, line in enumerate(self._lines(), start=1):
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise self._broken(number, f"unreadable ({error})") from error
            if entry.before != digest:
                raise self._broken(number, "not the successor of the line before it")
            entries.append(entry)
            digest = hashlib.sha256(line).hexdigest()
        return entries

    def append(
        self,
        action: Action,
        state: Literal["intent", "done"],
        by: str,
        reason: str,
        version: int | None = None,
        replaces: int | None = None,
    ) -> Entry:
        """Adds a line, on disk when this returns. Hold the lock."""
        self.entries()
        lines = self._lines()
        digest = hashlib.sha256(lines[-1]).hexdigest() if lines else ""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        entry = Entry(action, state, now, by, reason, version, replaces, digest)
        is_new = not self.path.exists()
        with self.path.open("ab") as file:
            file.truncate(sum(len(line) + 1 for line in lines))
            file.write(json.dumps(asdict(entry), ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            fsync(self.root)
        return entry

    def pending(self) -> Entry | None:
        """The intent that was never done, None where there is none; only the last can be."""
        last = self.entries()[-1:]
        return last[0] if last and last[0].state == "intent" else None

    def hold(self) -> Entry | None:
        """What holds the registry: the newest hold or rollback that no release followed."""
        kinds = [e for e in self.entries() if e.action in ("hold", "rollback", "release")]
        return kinds[-1] if kinds and kinds[-1].action != "release" else None

    def moves(self) -> list[Entry]:
        """What moved the champion, oldest first; finished or not."""
        return [e for e in self.entries() if e.state == "intent"]

    def _lines(self) -> list[bytes]:
        """Complete lines, without their ends."""
        if not self.path.exists():
            return []
        return self.path.read_bytes().split(b"\n")[:-1]

    def _broken(self, number: int, what: str) -> RegistryError:
        return RegistryError(
            f"line {number} of {self.path} {what}",
            "a journal that was only ever appended",
            f"restore {self.path} from a backup",
        )
