"""Contenders: the programs that a benchmark compares, ours and rivals, and how long they take."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from benchmarks.generated_events import DS
from benchmarks.resident_memory import peak_resident_bytes
from schemas.contract import Contract
from schemas.item_graph import ITEM_GRAPH
from schemas.partitions import Partition, get, partition_path
from schemas.settings import Settings
from schemas.soft_targets import SOFT_TARGETS

PROJECT = Path(__file__).parent.parent
STAGES: dict[str, Contract] = {"jobs.item_graph": ITEM_GRAPH, "jobs.soft_targets": SOFT_TARGETS}


@dataclass(frozen=True)
class Timing:
    """Seconds of one run: of the whole program, and of its work alone, everything started up."""

    wall: float
    work: float


@dataclass(frozen=True)
class Contender:
    """A program; `changes` are settings that differ from the defaults, such as ITEM_GRAPH__WINDOW.

    Ours are the real stages as an operator runs them: verify, count, prune, write, audit and
    publish. A rival is one of `benchmarks/graph_rivals.py` and does the core of that only.
    """

    name: str
    module: str = "benchmarks.graph_rivals"
    changes: tuple[tuple[str, str], ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether this is one of our stages."""
        return self.module in STAGES

    def run(self, root: Path) -> Timing:
        """Runs the program once under a root with generated tables."""
        if not self.is_ours:
            started = time.monotonic()
            output = self._program([self.name, "--root", str(root)])
            return Timing(time.monotonic() - started, float(output.splitlines()[-1]))
        self.prepare(root)
        started = time.monotonic()
        self._program(["--ds", str(DS), "--root", str(root), "--force"])
        wall = time.monotonic() - started
        partition = self.published(root)
        remove_other_runs(root, partition)
        start_spark = partition.manifest.notes["seconds"]["start_spark"]
        return Timing(wall, wall - start_spark - import_seconds(self.module))

    def peak_bytes(self, root: Path) -> tuple[int, int]:
        """Peak memory of one more run of a stage, and the samples it was taken from."""
        self.prepare(root)
        command = [sys.executable, "-m", self.module, "--ds", str(DS), "--root", str(root)]
        peak = peak_resident_bytes([*command, "--force"], self._environment(), PROJECT)
        remove_other_runs(root, self.published(root))
        return peak

    def prepare(self, root: Path) -> None:
        """Publishes the graph of default settings where soft targets would read another."""
        if self.module == "jobs.soft_targets":
            graph = Contender("item_graph", "jobs.item_graph")
            graph._program(["--ds", str(DS), "--root", str(root)])
            remove_other_runs(root, graph.published(root))

    def published(self, root: Path) -> Partition:
        """What our stage published last."""
        return get(root, STAGES[self.module], DS)

    def _program(self, arguments: list[str]) -> str:
        command = [sys.executable, "-m", self.module, *arguments]
        return subprocess.run(
            command,
            env=self._environment(),
            cwd=PROJECT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def _environment(self) -> dict[str, str]:
        return os.environ | {f"PENUMBRA_{key}": value for key, value in self.changes}


GRAPH = Contender("item_graph", "jobs.item_graph")
WHOLE_HISTORY = Contender(
    "item_graph, whole history",
    "jobs.item_graph",
    (
        ("ITEM_GRAPH__WINDOW", str(Settings().sequences.max_history)),
        ("ITEM_GRAPH__POSITION_DECAY", "1.0"),
    ),
)
ITEM_SEEDS = Contender(
    "soft_targets, items only", "jobs.soft_targets", (("SOFT_TARGETS__USER_SEEDS", "false"),)
)
SOFT = Contender("soft_targets", "jobs.soft_targets")


@cache
def import_seconds(module: str) -> float:
    """Seconds until a stage's interpreter has imported all it needs: the median of three."""

    def once() -> float:
        started = time.monotonic()
        command = [sys.executable, "-m", module, "--help"]
        subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started

    return median(once() for _ in range(3))


def remove_other_runs(root: Path, partition: Partition) -> None:
    """Deletes earlier runs of a benchmark's partition: at 20 million each takes a gigabyte."""
    folder = partition_path(root, partition.contract, DS)
    for run in folder.glob("run=*"):
        if run.name != partition.path.name:
            for file in run.iterdir():
                file.unlink()
            run.rmdir()
