"""Training: how fast and how large a training step is beside what one would write instead.

    make bench-train
    python -m benchmarks.training --parts paper ranks --repetitions 5

A step is a whole one: forward, loss, backward, clipping and AdamW, of the same SASRec on the same
generated batches; ours and rivals take turns in one process, and medians are compared. Memory is
taken in a process of its own for every loss: what its steps added to what was resident before
them, at the peak. A part of the benchmark writes its results under the root, the whole of it to
`benchmarks/results/`. About 20 minutes on 2 cores.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy import sparse
from torch import Tensor

from benchmarks.report import Finding, surroundings
from benchmarks.training_epoch import RECTOOLS, epochs_in_turn, result_of
from benchmarks.training_report import PACKAGES, Comparison, Run, TrainingReport, limit
from benchmarks.training_rivals import metrics_by_sorting
from benchmarks.training_steps import SHAPES, alternate
from schemas.settings import EvaluationSettings, TrainingSettings
from trainer.fitting import prepare_torch
from trainer.metrics import user_metrics

RESULTS = Path(__file__).parent / "results"
TABLE_WIDTH = 150
"""Columns of the printed table, in a terminal or a log."""

COMPARISONS = (
    Comparison("paper", "decoupled", "cross_entropy", 1.15),
    Comparison("paper", "decoupled", "dense", 3.0, "speed"),
    Comparison("paper", "decoupled", "dense", 0.40, "memory"),
    Comparison("paper", "cross_entropy", "plain", 1.05),
    Comparison("all_positions", "decoupled", "cross_entropy", 1.15),
    Comparison("all_positions", "cross_entropy", "plain", 1.05),
    Comparison("all_positions", "cross_entropy", "plain", 0.50, "memory"),
    Comparison("ranks", "counting", "sorting", 5.0, "speed"),
    Comparison("movielens", "ours", "rectools", 1.5, "speed"),
)
MILLION_LOSSES, MILLION_LIMIT_GB = ("sampled_softmax", "decoupled"), 6.0
"""A million items, where no rival would fit: sampled and full."""
PARTS = (*dict.fromkeys(c.part for c in COMPARISONS), "million")
FEWEST_REPETITIONS = 5
"""Steps whose median may be published."""
MEMORY_STEPS, MOST_EPOCHS = 3, 3

Scored = tuple[Tensor, sparse.csr_matrix, sparse.csr_matrix]
"""Scores of users, what they should find, and what is excluded."""


def steps(part: str, options: argparse.Namespace) -> list[Run]:
    """Timed steps of a shape's losses in turn, and the memory of those compared by it."""
    shape = SHAPES[part].scaled(options.scale)
    timed, weighed = (
        list(dict.fromkeys(name for c in chosen for name in (c.ours, c.rival)))
        for chosen in (
            [c for c in COMPARISONS if c.part == part and (c.kind == "memory") == is_memory]
            for is_memory in (False, True)
        )
    )
    found = alternate(timed, shape, options.repetitions)
    runs = [as_run(part, str(shape), name, **vars(found[name])) for name in timed]
    return runs + [memory(part, name, options) for name in weighed]


def memory(part: str, loss: str, options: argparse.Namespace) -> Run:
    """Some steps of a loss in a process of their own."""
    shape = SHAPES[part].scaled(options.scale)
    command = [sys.executable, "-m", "benchmarks.training_steps", loss, "--shape", part]
    command += ["--steps", str(MEMORY_STEPS), "--scale", str(options.scale)]
    return as_run(part, str(shape), loss, **result_of(command))


def ranks(options: argparse.Namespace) -> list[Run]:
    """Metrics of a batch of users from counted ranks, and from a sort of all scores."""
    prepare_torch(TrainingSettings())
    num_items = SHAPES["paper"].scaled(options.scale).num_items
    num_users = EvaluationSettings().batch_size
    ways: dict[str, Callable[..., Any]] = {"counting": user_metrics, "sorting": metrics_by_sorting}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.repetitions + 1):
        scored = scores(num_users, num_items, seed=number)
        for name in sorted(ways, reverse=bool(number % 2)):
            started = time.perf_counter()
            ways[name](*scored)
            if number:  # the first one warms up
                found[name].append(time.perf_counter() - started)
    on = f"|V| {num_items:,}, {num_users} users"
    return [as_run("ranks", on, name, seconds=found[name]) for name in ways]


def scores(num_users: int, num_items: int, seed: int) -> Scored:
    """Random scores; of every user 1 to 10 items to find and 50 others that are excluded."""
    random = np.random.default_rng(seed)
    num_relevant = random.integers(1, 11, num_users)
    drawn = [random.choice(num_items, 50 + n, replace=False) + 1 for n in num_relevant]
    relevant, excluded = (
        sparse.csr_matrix(
            (
                np.ones(sum(map(len, chosen))),
                np.concatenate(chosen),
                np.concatenate([[0], np.cumsum([len(items) for items in chosen])]),
            ),
            shape=(num_users, num_items + 1),
        )
        for chosen in ([items[50:] for items in drawn], [items[:50] for items in drawn])
    )
    scores_BV = torch.from_numpy(random.standard_normal((num_users, num_items + 1), np.float32))
    return scores_BV, relevant, excluded


def movielens(options: argparse.Namespace) -> list[Run]:
    """An epoch on MovieLens-1M by our trainer and by RecTools'."""
    found = epochs_in_turn(options.root.resolve(), min(options.repetitions, MOST_EPOCHS))
    return [
        as_run(
            "movielens",
            "MovieLens-1M, an epoch",
            name,
            seconds=[run["seconds"] for run in runs],
            losses=[run["loss"] for run in runs],
        )
        for name, runs in found.items()
    ]


def as_run(part: str, on: str, program: str, **measured: Any) -> Run:
    """A measurement as the report keeps it."""
    print(f"{on}: {program}: {measured}", file=sys.stderr, flush=True)
    return {"part": part, "on": on, "program": program, **measured}


def run(options: argparse.Namespace) -> TrainingReport:
    """Measures and compares what the command line asks for."""
    measure: dict[str, Callable[[argparse.Namespace], list[Run]]] = {
        "paper": partial(steps, "paper"),
        "all_positions": partial(steps, "all_positions"),
        "ranks": ranks,
        "movielens": movielens,
        "million": lambda options: [memory("million", name, options) for name in MILLION_LOSSES],
    }
    runs = [one for part in options.parts for one in measure[part](options)]
    compared = [comparison.finding(runs) for comparison in COMPARISONS]
    findings: list[Finding] = [finding for finding in compared if finding]
    for one in runs:
        if one["part"] == "million":
            findings += limit(one, MILLION_LIMIT_GB)
    about = surroundings(options.command, PACKAGES)
    about["versions"]["rectools"] = RECTOOLS
    return TrainingReport(about, findings, runs)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; `results` is the published folder for the whole benchmark only."""
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--root", type=Path, default=Path("var/bench"))
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies catalogues (1)")
    options = parser.parse_args(arguments)
    options.command = shlex.join(["python", "-m", "benchmarks.training", *arguments])
    is_enough = options.repetitions >= FEWEST_REPETITIONS
    is_whole = set(options.parts) == set(PARTS) and options.scale == 1 and is_enough
    options.results = RESULTS if is_whole else options.root / "results"
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
