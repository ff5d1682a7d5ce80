"""Graph report: what the graph benchmark found, as a table, as JSON and as Markdown."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.java import find_java_home

PACKAGES = ("pyspark", "numpy", "scipy", "pyarrow", "implicit")
HEADINGS = ("on", "what", "ours", "against", "found", "reach", "")


@dataclass(frozen=True)
class Finding:
    """One number and what it should be.

    Attributes:
        num_interactions: The size it was measured at.
        what: What was measured.
        ours: Our number, with its unit.
        other: The number it is held against, with its unit; may be empty.
        value: What is compared with `reach`, such as a ratio of medians.
        unit: Of `value` and `reach`.
        reach: The limit; None where the number is for information.
        is_floor: Whether `value` must be at least `reach`, instead of at most.
    """

    num_interactions: int
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
        size = f"{self.num_interactions / 1e6:g}M"
        found = f"{self.value:.2f}{self.unit}"
        return size, self.what, self.ours, self.other, found, reach, verdict


@dataclass(frozen=True)
class Report:
    """A run of the benchmark: where it was, what it found, and every single timing."""

    surroundings: dict[str, Any]
    findings: list[Finding]
    runs: list[dict[str, Any]]

    def print(self, console: Console) -> None:
        """Prints the findings as a table."""
        view = Table(*HEADINGS)
        for finding in self.findings:
            style = {None: None, True: "green", False: "red"}[finding.is_reached]
            view.add_row(*finding.cells, style=style)
        console.print(view)

    def write(self, folder: Path) -> None:
        """Writes `graph.json` and `graph.md`."""
        folder.mkdir(parents=True, exist_ok=True)
        findings = [asdict(f) | {"is_reached": f.is_reached} for f in self.findings]
        content = {**self.surroundings, "findings": findings, "runs": self.runs}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / "graph.json").write_text(text + "\n")
        (folder / "graph.md").write_text(self.markdown())

    def markdown(self) -> str:
        """The findings, their surroundings, and the seconds of every run."""
        about = self.surroundings
        machine = ", ".join(f"{value} {name}" for name, value in about["machine"].items())
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        lines = ["# Graph and propagation beside what one would use instead", ""]
        lines += [f"`{about['command']}` on {about['date']}: {machine}; {versions}.", ""]
        lines += _markdown_table(HEADINGS, [f.cells for f in self.findings])
        lines += ["", "Seconds of every run, start-up included (and without it):", ""]
        rows = [
            (
                f"{run['num_interactions'] / 1e6:g}M",
                run["contender"],
                ", ".join(
                    f"{w:.1f} ({n:.1f})" for w, n in zip(run["wall"], run["work"], strict=True)
                ),
            )
            for run in self.runs
        ]
        lines += _markdown_table(("on", "program", "seconds"), rows)
        return "\n".join(lines) + "\n"


def surroundings(command: str) -> dict[str, Any]:
    """When, with what and on what a benchmark ran."""
    memory_gb = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    java = subprocess.run(
        [find_java_home() / "bin" / "java", "--version"], capture_output=True, text=True, check=True
    )
    versions = {"Python": platform.python_version()}
    versions |= {"Java": java.stdout.split()[1]}
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cores": os.cpu_count(), "GB of memory": memory_gb},
        "versions": versions | {name: version(name) for name in PACKAGES},
    }


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
