"""Graph: how fast and how large item graph and propagation are beside what one would use instead.

    make bench-graph
    python -m benchmarks.graph --sizes 1 5 --rivals scipy_counts implicit --repetitions 1

Generates events (kept under the root), then runs our stages and the rivals in turn, every one
as a program of its own, and compares medians. Peak memory is taken in runs of its own, which
are not timed. A part of the benchmark writes its results under the root, the whole of it to
`benchmarks/results/`. All of it takes 40 minutes on 2 cores.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console

from benchmarks.contenders import GRAPH, ITEM_SEEDS, SOFT, WHOLE_HISTORY, Contender, Timing
from benchmarks.generated_events import World, generate
from benchmarks.graph_report import Report, millions, surroundings
from benchmarks.report import Finding

MILLION = 1_000_000
RESULTS = Path(__file__).parent / "results"
TABLE_WIDTH = 150
"""Columns of the printed table, in a terminal or a log."""
SLOW_SECONDS = 600
"""A rival that took longer the first time is not repeated: no noise hides a ratio like that."""


@dataclass(frozen=True)
class Comparison:
    """Our stage and a rival at a size, in millions of interactions.

    `reach` is how many times as fast as the rival we are at least (`is_speedup`), or the share of
    its time that we take at most; without the start of our interpreter and of Spark, or with it.
    """

    size: int
    ours: Contender
    rival: str
    reach: float
    is_speedup: bool = False
    counts_start: bool = False


COMPARISONS = (
    Comparison(5, GRAPH, "spark_join", 5.0, is_speedup=True),
    Comparison(5, GRAPH, "scipy_counts", 1.5),
    Comparison(20, GRAPH, "scipy_counts", 1.5, counts_start=True),
    Comparison(5, WHOLE_HISTORY, "implicit", 1.5),
    Comparison(5, GRAPH, "implicit", 1.5),
    Comparison(1, ITEM_SEEDS, "spark_propagation", 10.0, is_speedup=True),
    Comparison(5, ITEM_SEEDS, "scipy_propagation", 1.0),
)
SCALING = "scaling"
"""The part without a rival: our stages at 1 and 20 million, and their memory at 20."""
SMALL, LARGE, LARGEST_GROWTH, MEMORY_LIMIT_GB = 1, 20, 1.3, 8.0
SIZES, PARTS = (1, 5, 20), (*dict.fromkeys(c.rival for c in COMPARISONS), SCALING)

Timings = dict[Contender, list[Timing]]


def contenders(size: int, chosen: Sequence[Comparison], is_scaling: bool) -> list[Contender]:
    """Who runs at a size, once each; ours and rivals alternate, and what others read comes first.

    The graph of whole histories goes first, so that the one of default settings stays published.
    """
    order: dict[Contender, None] = {}
    here = [c for c in chosen if c.size == size]
    for comparison in sorted(here, key=lambda c: c.ours is not WHOLE_HISTORY):
        order |= {comparison.ours: None, Contender(comparison.rival): None}
    if is_scaling and size in (SMALL, LARGE):
        order |= {GRAPH: None, SOFT: None}
    return list(order)


def measure(root: Path, runners: Sequence[Contender], repetitions: int) -> Timings:
    """Runs all contenders of a size in turn, `repetitions` times."""
    found: Timings = {runner: [] for runner in runners}
    for _ in range(repetitions):
        for runner in runners:
            is_slow = not runner.is_ours and any(t.wall > SLOW_SECONDS for t in found[runner])
            if is_slow:
                continue
            found[runner].append(timing := runner.run(root))
            print(
                f"{root.name}: {runner.name}: {timing.wall:.1f} s, work {timing.work:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return found


def compare(comparison: Comparison, found: Timings, num_interactions: int) -> Finding:
    """The ratio of medians of our stage and a rival."""
    kind = "wall" if comparison.counts_start else "work"
    ours = median(getattr(t, kind) for t in found[comparison.ours])
    theirs = median(t.work for t in found[Contender(comparison.rival)])
    start = " with start-up" if comparison.counts_start else ""
    return Finding(
        millions(num_interactions),
        f"{comparison.ours.name}{start} against {comparison.rival}",
        f"{ours:.1f} s",
        f"{theirs:.1f} s",
        theirs / ours if comparison.is_speedup else ours / theirs,
        "× as fast" if comparison.is_speedup else "× its time",
        comparison.reach,
        is_floor=comparison.is_speedup,
    )


def growth(found: Mapping[int, Timings], actions: Mapping[int, int]) -> list[Finding]:
    """Time per interaction of graph and propagation, large against small, Spark up."""

    def microseconds(size: int, stages: Sequence[Contender]) -> float:
        seconds = sum(median(t.work for t in found[size][stage]) for stage in stages)
        return seconds * 1e6 / actions[size]

    def finding(name: str, *stages: Contender, reach: float | None = None) -> Finding:
        small, large = microseconds(SMALL, stages), microseconds(LARGE, stages)
        what = f"{name}: time per interaction against that at {SMALL}M"
        numbers = f"{large:.2f} µs", f"{small:.2f} µs", large / small
        return Finding(millions(actions[LARGE]), what, *numbers, "×", reach)

    return [
        finding("graph and propagation", GRAPH, SOFT, reach=LARGEST_GROWTH),
        finding("graph", GRAPH),
        finding("propagation", SOFT),
    ]


def memory(root: Path, num_interactions: int) -> list[Finding]:
    """Peak memory of each stage over all its processes, and what it sent through shuffles."""
    findings, size = [], millions(num_interactions)
    for stage in (GRAPH, SOFT):
        peak, num_samples = stage.peak_bytes(root)
        shuffled = stage.published(root).manifest.notes["shuffled_bytes"] / 1e9
        what = f"{stage.name}: peak memory (PSS of all processes, {num_samples} samples)"
        limit = Finding(size, what, f"{peak / 1e9:.2f} GB", "", peak / 1e9, " GB", MEMORY_LIMIT_GB)
        sent = f"{stage.name}: bytes shuffled"
        information = Finding(size, sent, f"{shuffled:.2f} GB", "", shuffled, " GB")
        findings += [limit, information]
    return findings


def run(options: argparse.Namespace) -> Report:
    """Generates, measures and compares what the command line asks for."""
    chosen = [c for c in COMPARISONS if c.rival in options.rivals and c.size in options.sizes]
    is_scaling = SCALING in options.rivals
    actions = {size: round(size * MILLION * options.scale) for size in options.sizes}
    roots = {size: options.root.resolve() / str(actions[size]) for size in options.sizes}
    found: dict[int, Timings] = {}
    findings: list[Finding] = []
    for size in options.sizes:
        generate(roots[size], World(actions[size]))
        runners = contenders(size, chosen, is_scaling)
        found[size] = measure(roots[size], runners, options.repetitions)
        findings += [compare(c, found[size], actions[size]) for c in chosen if c.size == size]
    if is_scaling and LARGE in found:
        findings += growth(found, actions) if SMALL in found else []
        findings += memory(roots[LARGE], actions[LARGE])
    runs = [
        {
            "num_interactions": actions[size],
            "contender": runner.name,
            "wall": [round(t.wall, 3) for t in timings],
            "work": [round(t.work, 3) for t in timings],
        }
        for size in options.sizes
        for runner, timings in found[size].items()
    ]
    return Report(surroundings(options.command), findings, runs)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; `results` is the published folder for the whole benchmark only."""
    parser = argparse.ArgumentParser("python -m benchmarks.graph", description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, default=list(SIZES))
    parser.add_argument("--rivals", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--root", type=Path, default=Path("var/bench"))
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all sizes (1)")
    options = parser.parse_args(arguments)
    options.command = shlex.join(["python", "-m", "benchmarks.graph", *arguments])
    is_whole = (set(options.sizes), set(options.rivals)) == (set(SIZES), set(PARTS))
    is_published = is_whole and options.scale == 1 and options.repetitions >= 3
    options.results = RESULTS if is_published else options.root / "results"
    return options


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark, prints its table and writes its results."""
    options = parse(arguments)
    report = run(options)
    report.print(Console(width=TABLE_WIDTH))
    report.write(options.results)
    print(f"written to {options.results}")


if __name__ == "__main__":
    main(sys.argv[1:])
