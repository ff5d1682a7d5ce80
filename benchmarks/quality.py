"""Quality: soft targets against baselines with as many trials, whole catalogue (hours to days).

    make bench-quality DATA=folder
    python -m benchmarks.quality prepare beauty --data folder
    python -m benchmarks.quality targets beauty
    python -m benchmarks.quality settings beauty --backbone gru4rec
    python -m benchmarks.quality search beauty --backbone sasrec --trials 12 --hours 3
    python -m benchmarks.quality score beauty --backbone sasrec --seeds 1 2 3
    python -m benchmarks.quality report

Each step takes up where an earlier run ended. `targets` says which soft targets know what comes
next, without training; `settings` which settings of the method matter, one at a time; both and
`search` look at validation alone; `score` trains the best settings of each loss and looks at the
holdout; `report` refuses cells whose losses were not tried as often, and keeps what an earlier
report has of cells that are not under the root. `all` does everything, cell by cell. Any setting
that is not searched may be overridden for all losses, such as PENUMBRA_TRAINING__PATIENCE=3; the
trials record it.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.quality_cells import read_cells
from benchmarks.quality_data import DATA_SETS
from benchmarks.quality_method import compare_settings
from benchmarks.quality_report import PACKAGES, build, with_recorded
from benchmarks.quality_roots import prepare
from benchmarks.quality_scores import score
from benchmarks.quality_search import SECONDS_PER_HOUR, search
from benchmarks.quality_space import LOSSES
from benchmarks.quality_targets import compare_targets
from benchmarks.report import surroundings
from schemas.errors import PenumbraError, UsageError
from trainer.backbones import BACKBONES

RESULTS = Path("benchmarks/results")
TABLE_WIDTH = 150
"""Columns of the printed table, in a terminal or a log."""


def report(options: argparse.Namespace) -> None:
    """Prints and writes the report of all cells that may be reported, and of those recorded."""
    cells, refused = read_cells(options.root)
    for reason in refused:
        print(f"left out: {reason}", file=sys.stderr)
    if not cells:
        fix = "python -m benchmarks.quality score"
        raise UsageError(f"no cell under {options.root}", "scores of one at least", fix)
    at_work = [reason.partition(":")[0] for reason in refused]
    here = build(cells, surroundings(options.command, PACKAGES))
    found = with_recorded(here, options.to, at_work)
    found.print(Console(width=TABLE_WIDTH))
    found.write(options.to)
    print(f"written to {options.to}")


def run_all(options: argparse.Namespace) -> None:
    """Every data set with every backbone; ends with what there is when the time is over."""
    until = time.monotonic() + options.hours * SECONDS_PER_HOUR
    for data in DATA_SETS.values():
        prepare(data, options.root, options.data)
    for backbone in BACKBONES:
        for data in DATA_SETS.values():
            hours = (until - time.monotonic()) / SECONDS_PER_HOUR
            if hours <= 0:
                continue
            trials = options.trials
            search(data, options.root, backbone, LOSSES, trials, options.seed, hours)
            if time.monotonic() < until:
                score(data, options.root, backbone, LOSSES, options.seeds)
    report(options)


def run(options: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    if options.step == "all":
        return run_all(options)
    if options.step == "report":
        return report(options)
    data = DATA_SETS[options.data_set]
    if options.step == "prepare":
        return prepare(data, options.root, options.data)
    if options.step == "targets":
        return print(compare_targets(data, options.root), end="")
    if options.step == "settings":
        return print(compare_settings(data, options.root, options.backbone), end="")
    if options.step == "search":
        trials, seed, hours = options.trials, options.seed, options.hours
        return search(data, options.root, options.backbone, options.loss, trials, seed, hours)
    return score(data, options.root, options.backbone, options.loss, options.seeds)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = parser.add_subparsers(dest="step", required=True)
    for step in ("prepare", "targets", "settings", "search", "score", "report", "all"):
        _add_step(steps.add_parser(step), step)
    options = parser.parse_args(arguments)
    for name in ("root", "data"):
        if name in options:
            setattr(options, name, getattr(options, name).expanduser().resolve())
    overrides = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("PENUMBRA_")]
    options.command = shlex.join([*overrides, "python", "-m", "benchmarks.quality", *arguments])
    return options


def _add_step(parser: argparse.ArgumentParser, step: str) -> None:
    parser.add_argument("--root", type=Path, default=Path("var/quality"))
    if step in ("prepare", "targets", "settings", "search", "score"):
        parser.add_argument("data_set", choices=DATA_SETS)
    if step in ("prepare", "all"):
        parser.add_argument("--data", type=Path, required=True, help="folder of the data's files")
    if step in ("settings", "search", "score"):
        parser.add_argument("--backbone", choices=BACKBONES, required=True)
    if step in ("search", "score"):
        parser.add_argument("--loss", nargs="+", choices=LOSSES, default=LOSSES)
    if step in ("search", "all"):
        parser.add_argument("--trials", type=int, default=12, help="of each loss (12)")
        parser.add_argument("--seed", type=int, default=1, help="of draws and trainings (1)")
        parser.add_argument("--hours", type=float, default=float("inf"), help="then stop")
    if step in ("report", "all"):
        parser.add_argument("--to", type=Path, default=RESULTS, help=f"folder ({RESULTS})")
    if step in ("score", "all"):
        parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])


def main(arguments: Sequence[str]) -> int:
    """Runs one step; a PenumbraError is one line on stderr."""
    options = parse(arguments)
    try:
        run(options)
    except PenumbraError as error:
        print(f"benchmarks.quality: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
