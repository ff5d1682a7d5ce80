"""Report: what a benchmark found, as a table, as JSON and as Markdown."""

import json
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

HEADINGS = ("on", "what", "ours", "against", "found", "reach", "")


@dataclass(frozen=True)
class Finding:
    """One number and what it should be.

    Attributes:
        on: What it was measured on, such as the size.
        what: What was measured.
        ours: Our number, with its unit.
        other: The number it is held against, with its unit; may be empty.
        value: What is compared with `reach`, such as a ratio of medians.
        unit: Of `value` and `reach`.
        reach: The limit; None where the number is for information.
        is_floor: Whether `value` must be at least `reach`, instead of at most.
    """

    on: str
    what: str
    ours: str
    other: str
    value: float
    unit: str
    reach: float | None = None
    is_floor: bool = False

    @property
    def is_reached(self) -> bool | None:
        """Whether the limit is kept; None without one."""
        if self.reach is None:
            return None
        return self.value >= self.reach if self.is_floor else self.value <= self.reach

    @property
    def cells(self) -> tuple[str, ...]:
        """This finding as words, under `HEADINGS`."""
        sign = "≥" if self.is_floor else "≤"
        reach = "" if self.reach is None else f"{sign} {self.reach:g}{self.unit}"
        verdict = {None: "", True: "pass", False: "miss"}[self.is_reached]
        found = f"{self.value:.2f}{self.unit}"
        return self.on, self.what, self.ours, self.other, found, reach, verdict


@dataclass(frozen=True)
class Report(ABC):
    """A run of a benchmark: where it was, what it found, and every single measurement."""

    name: ClassVar[str]
    """Of the files."""
    title: ClassVar[str]

    surroundings: dict[str, Any]
    findings: list[Finding]
    runs: list[dict[str, Any]]

    @abstractmethod
    def run_lines(self) -> list[str]:
        """The single measurements as Markdown."""

    def print(self, console: Console) -> None:
        """Prints the findings as a table."""
        view = Table(*HEADINGS)
        for finding in self.findings:
            style = {None: None, True: "green", False: "red"}[finding.is_reached]
            view.add_row(*finding.cells, style=style)
        console.print(view)

    def write(self, folder: Path) -> None:
        """Writes `<name>.json` and `<name>.md`."""
        folder.mkdir(parents=True, exist_ok=True)
        findings = [asdict(f) | {"is_reached": f.is_reached} for f in self.findings]
        content = {**self.surroundings, "findings": findings, "runs": self.runs}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / f"{self.name}.json").write_text(text + "\n")
        (folder / f"{self.name}.md").write_text(self.markdown())

    def markdown(self) -> str:
        """The findings, their surroundings, and the single measurements."""
        about = self.surroundings
        machine = ", ".join(f"{value} {name}" for name, value in about["machine"].items())
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        lines = [f"# {self.title}", ""]
        lines += [f"`{about['command']}` on {about['date']}: {machine}; {versions}.", ""]
        lines += markdown_table(HEADINGS, [f.cells for f in self.findings])
        return "\n".join([*lines, "", *self.run_lines()]) + "\n"


def surroundings(command: str, packages: Sequence[str]) -> dict[str, Any]:
    """When, with what and on what a benchmark ran."""
    memory_gb = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    versions = {"Python": platform.python_version()} | {name: version(name) for name in packages}
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cores": os.cpu_count(), "GB of memory": memory_gb},
        "versions": versions,
    }


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row, headings first."""
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in lines]
