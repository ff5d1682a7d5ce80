"""Training report: what the training benchmark compares, and what it measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar, Literal

from benchmarks.report import Finding, Report, markdown_table

PACKAGES = ("torch", "numpy", "scipy")

Run = dict[str, Any]
"""What was measured: its `part`, `on` what in words, the `program`, and its `seconds`.

Runs that were made for memory have `resident_peak` and `added_peak`, too, in bytes.
"""


@dataclass(frozen=True)
class Comparison:
    """One of our programs and a rival of the same part.

    `reach` is the share of the rival's time or memory that we take at most, or how many times as
    fast as the rival we are at least (`speed`).
    """

    part: str
    ours: str
    rival: str
    reach: float
    kind: Literal["time", "speed", "memory"] = "time"

    def finding(self, runs: Sequence[Run]) -> Finding | None:
        """The ratio of medians, or of peaks; None where one of them was not measured."""
        ours, rival = self._measured(self.ours, runs), self._measured(self.rival, runs)
        if ours is None or rival is None:
            return None
        is_memory, is_speed = self.kind == "memory", self.kind == "speed"
        words = gigabytes if is_memory else seconds
        return Finding(
            next(run["on"] for run in runs if run["part"] == self.part),
            f"{self.ours} against {self.rival}" + (", memory of steps" if is_memory else ""),
            words(ours),
            words(rival),
            rival / ours if is_speed else ours / rival,
            {"time": "× its time", "speed": "× as fast", "memory": "× its memory"}[self.kind],
            self.reach,
            is_floor=is_speed,
        )

    def _measured(self, program: str, runs: Sequence[Run]) -> float | None:
        own = [run for run in runs if (run["part"], run["program"]) == (self.part, program)]
        if self.kind == "memory":
            return next((float(run["added_peak"]) for run in own if "added_peak" in run), None)
        return next((median(run["seconds"]) for run in own if "added_peak" not in run), None)


@dataclass(frozen=True)
class TrainingReport(Report):
    """A run of the training benchmark."""

    name: ClassVar[str] = "training"
    title: ClassVar[str] = "Training and evaluation beside what one would use instead"

    def run_lines(self) -> list[str]:
        """Seconds of every measurement, and the memory of those that were made to take it."""
        rows = [
            (
                run["on"],
                run["program"],
                ", ".join(f"{value:.3f}" for value in run["seconds"]),
                *(gigabytes(run[name]) if name in run else "" for name in PEAKS),
            )
            for run in self.runs
        ]
        lines = [
            "Seconds of every measurement. Runs with memory are processes of their own: the most",
            "that was resident while they made steps, and how much of it the steps had added.",
            "",
        ]
        headings = ("on", "program", "seconds", "resident peak", "added by steps")
        return lines + markdown_table(headings, rows)


PEAKS = ("resident_peak", "added_peak")


def limit(run: Run, reach_gb: float) -> list[Finding]:
    """Peak memory of a whole process that made steps, and how long one takes."""
    peak, middle = run["resident_peak"], median(run["seconds"])
    what = f"{run['program']}: resident peak of the whole process"
    step = f"{run['program']}: a step"
    return [
        Finding(run["on"], what, gigabytes(peak), "", peak / 1e9, " GB", reach_gb),
        Finding(run["on"], step, seconds(middle), "", middle, " s"),
    ]


def gigabytes(size: float) -> str:
    """Bytes as words."""
    return f"{size / 1e9:.2f} GB"


def seconds(time: float) -> str:
    """Seconds as words."""
    return f"{time:.3f} s"
