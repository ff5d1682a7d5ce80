"""Graph report: what the graph benchmark found, and the seconds of every program's runs."""

import subprocess
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks import report
from benchmarks.report import markdown_table
from jobs.java import find_java_home

PACKAGES = ("pyspark", "numpy", "scipy", "pyarrow", "implicit")


@dataclass(frozen=True)
class Report(report.Report):
    """A run of the graph benchmark."""

    name: ClassVar[str] = "graph"
    title: ClassVar[str] = "Graph and propagation beside what one would use instead"

    def run_lines(self) -> list[str]:
        """Seconds of every run."""
        rows = [
            (
                millions(run["num_interactions"]),
                run["contender"],
                ", ".join(
                    f"{w:.1f} ({n:.1f})" for w, n in zip(run["wall"], run["work"], strict=True)
                ),
            )
            for run in self.runs
        ]
        lines = ["Seconds of every run, start-up included (and without it):", ""]
        return lines + markdown_table(("on", "program", "seconds"), rows)


def millions(num_interactions: int) -> str:
    """A size as words, such as 20M."""
    return f"{num_interactions / 1e6:g}M"


def surroundings(command: str) -> dict[str, Any]:
    """When, with what and on what a benchmark ran, Java included."""
    java = subprocess.run(
        [find_java_home() / "bin" / "java", "--version"], capture_output=True, text=True, check=True
    )
    about = report.surroundings(command, PACKAGES)
    about["versions"]["Java"] = java.stdout.split()[1]
    return about
