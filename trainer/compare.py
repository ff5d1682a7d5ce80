"""Compare: two scored models side by side, with paired bootstrap intervals over users.

    python -m trainer.compare version:4 version:3
    python -m trainer.compare 2017-10-31:candidate 2017-10-31:item_knn --metrics ndcg@10 --json

A model is named by its scorecards, by its version in the registry or by the MLflow id of its
training run (`trainer/sheets.py`). Of the nights that scored both models on one holdout, the
newest is shown.

The difference is A - B. The relative difference is a share of B's mean and the interval is its
own, as the gate has them; where that mean is 0 the interval is of the plain difference.
"""

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from rich import box
from rich.console import Console
from rich.table import Table

from schemas.collector import at_work
from schemas.command_line import Parser, existing_root
from schemas.errors import DataError, PenumbraError, UsageError
from schemas.settings import GateSettings, load
from trainer.evidence import paired_gain
from trainer.registry import Registry
from trainer.sheets import NAMES, Sheet, pair_of, sheets_of

PARTS = {False: "all items", True: "items new to the user"}
MIN_WIDTH = 100
"""Columns that a table needs, taken where there is no terminal to measure."""


@dataclass(frozen=True)
class Line:
    """One metric of both models on one holdout."""

    exclude_seen: bool
    metric: str
    num_users: int
    a: float
    b: float
    interval: tuple[float, float] | None
    """Of the relative difference, or of the difference where `b` is 0; None below two users."""

    @property
    def difference(self) -> float:
        """A - B."""
        return self.a - self.b

    @property
    def relative_difference(self) -> float | None:
        """A - B as a share of B, None where B is 0."""
        return self.difference / abs(self.b) if self.b else None

    def as_row(self) -> dict[str, Any]:
        """The line as `--json` prints it."""
        row = vars(self) | {"difference": self.difference}
        return row | {"relative_difference": self.relative_difference}


def compare(
    a: Sheet, b: Sheet, settings: GateSettings, metrics: Collection[str] = ()
) -> list[Line]:
    """Every metric that both models have, whole metrics before slices.

    Slices are left out where the two evaluations had others.

    Args:
        a: Takes the candidate's place.
        b: Takes the champion's place.
        settings: `confidence`, `num_resamples` and `seed` of the bootstrap.
        metrics: Only these; all where it is empty.

    Raises:
        UsageError: One of these metrics is not of both models.
        DataError: A metric is not of the same users.
    """
    cards_a, cards_b = a.cards(), b.cards()
    both = sorted(cards_a.keys() & cards_b.keys(), key=lambda key: (key[0], _order(key[1])))
    if not have_one_slicing(a, b):
        both = [key for key in both if "/" not in key[1]]
    chosen = [key for key in both if not metrics or key[1] in metrics]
    unknown = [metric for metric in metrics if metric not in {name for _, name in both}]
    if unknown or not chosen:
        known = ", ".join(dict.fromkeys(metric for _, metric in both)) or "a metric of both models"
        raise UsageError(f"metrics {', '.join(unknown) or 'of neither'}", known, "--metrics")
    return [_line(cards_a[key], cards_b[key], settings) for key in chosen]


def have_one_slicing(a: Sheet, b: Sheet) -> bool:
    """Whether "heavy users" and "tail items" are the same in both."""
    theirs, others = (sheet.partition.manifest.notes.get("slices") for sheet in (a, b))
    return bool(theirs == others)


def _line(a: dict[str, Any], b: dict[str, Any], settings: GateSettings) -> Line:
    values_a, values_b = (np.asarray(c["user_values"], dtype=np.float64) for c in (a, b))
    if (a["num_users"], len(values_a)) != (b["num_users"], len(values_b)):
        raise DataError(
            f"{a['metric']} of {a['num_users']} users and of {b['num_users']}",
            "the same users under both models",
            "train and evaluate one of the two again",
        )
    # One user's interval would be a point.
    gain = paired_gain(values_a, values_b, settings) if a["num_users"] > 1 else None
    values = (a["num_users"], a["value"], b["value"])
    return Line(a["exclude_seen"], a["metric"], *values, gain.interval if gain else None)


def _order(metric: str) -> tuple[str, str, int]:
    """Sorts by slice, then by name, then by k as a number."""
    whole, _, part = metric.partition("/")
    name, _, k = whole.partition("@")
    return part, name, int(k or 0)


def table(lines: Sequence[Line], *, exclude_seen: bool, confidence: float) -> Table:
    """The lines of one holdout for people."""
    view = Table(title=PARTS[exclude_seen], title_justify="left", box=box.SIMPLE_HEAD)
    view.add_column("metric", no_wrap=True)
    heads = ("users", "A", "B", "A - B", "of B", f"{confidence:.0%} interval")
    for head in heads:
        view.add_column(head, justify="right", no_wrap=True)
    for line in (one for one in lines if one.exclude_seen == exclude_seen):
        relative = line.relative_difference
        unit = "+.1%" if relative is not None else "+.4f"
        view.add_row(
            line.metric,
            f"{line.num_users:,}",
            f"{line.a:.4f}",
            f"{line.b:.4f}",
            f"{line.difference:+.4f}",
            "–" if relative is None else f"{relative:+.1%}",
            " to ".join(f"{end:{unit}}" for end in line.interval) if line.interval else "–",
        )
    return view


def main(arguments: Sequence[str]) -> int:
    """Prints the comparison that the command line asks for."""
    try:
        _main(_parse(arguments))
    except PenumbraError as error:
        print(f"trainer.compare: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except MlflowException as error:
        print(f"trainer.compare: MLflow: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _main(options: argparse.Namespace) -> None:
    settings = load(options.settings)
    registry = Registry(existing_root(options.root), settings)
    a, b = pair_of(sheets_of(options.a, registry), sheets_of(options.b, registry))
    lines = compare(a, b, settings.gate, options.metrics)
    confidence = settings.gate.confidence
    if options.json:
        facts: dict[str, Any] = {"a": a.name, "b": b.name}
        facts |= {"a_is": options.a, "b_is": options.b, "holdout_digest": a.holdout_digest}
        facts |= {"a_weights_sha256": a.model_digest, "b_weights_sha256": b.model_digest}
        facts |= {"confidence": confidence, "metrics": [line.as_row() for line in lines]}
        print(json.dumps(facts, indent=2, allow_nan=False))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=max(console.width, MIN_WIDTH))
    for side, name, sheet in (("A", options.a, a), ("B", options.b, b)):
        console.print(f"{side}  {name}" + (f" ({sheet.name})" if name != sheet.name else ""))
    if not have_one_slicing(a, b):
        console.print("Slices are left out: settings of evaluation differed, or one is unknown.")
    for exclude_seen in sorted({line.exclude_seen for line in lines}):
        console.print(table(lines, exclude_seen=exclude_seen, confidence=confidence))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m trainer.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for side in ("a", "b"):
        parser.add_argument(side, metavar=side.upper(), help=NAMES)
    parser.add_argument("--metrics", nargs="+", default=(), help="only these, such as ndcg@10")
    parser.add_argument("--root", default="var", type=Path, help="folder of all tables (var)")
    parser.add_argument("--settings", type=Path, help="a TOML file (pipeline.toml)")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with at_work():
        sys.exit(main(sys.argv[1:]))
