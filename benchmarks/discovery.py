"""Discovery: what each part of the demo's recipe brings, over several nights and seeds.

    make bench-discovery
    python -m benchmarks.discovery --nights 2017-10-17 2017-11-14 --seeds 17 18 --variants demo

Runs the real stages on the demo's data: events to sequences once a night, then graph, soft
targets, training and evaluation for every variant and seed. Prints, for discovery, Recall@10 and
NDCG@10 of every model, and the gain over item-kNN in percent, with its standard error: the same
users under both models, a user's seeds of a night averaged first, and a user's nights, which are
not independent, summed up (clustered by user).
About two minutes a line on 2 cores.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from demo.load_events import SETTINGS_FILE, load_events
from schemas.items import ITEMS
from schemas.partitions import get
from schemas.scorecards import SCORECARDS
from schemas.sequences import SEQUENCES
from schemas.settings import load
from trainer.holdout import holdout_of

NIGHTS = [date(2017, 10, 17), date(2017, 10, 31), date(2017, 11, 14)]
METRICS = ("recall@10", "ndcg@10")
BASELINES = ("popularity", "item_knn")
VARIANTS: dict[str, dict[str, str]] = {
    "demo": {},
    "cross_entropy": {"TRAINING__LOSS": "cross_entropy"},
    "constant_rate": {"TRAINING__SCHEDULE": "constant", "TRAINING__EPOCHS": "5"},
    "short_cosine": {"TRAINING__EPOCHS": "5"},
    "fast_cosine": {"TRAINING__LEARNING_RATE": "2e-3"},
    "sasrec": {"TRAINING__BACKBONE": "sasrec"},
    "no_history_skip": {"TRAINING__HISTORY_SKIP": "false"},
    "all_time_popularity": {"TRAINING__POPULARITY_DAYS": "0"},
    "next_item": {"TRAINING__TARGET_DAYS": "0"},
    "user_seeds": {"TRAINING__BETA": "0.2"},
    "raw_graph": {"ITEM_GRAPH__NORMALISER": "raw"},
}
"""What each variant changes in `demo/pipeline.toml`."""

SHARED_STAGES = ("jobs.interactions", "jobs.items", "jobs.sequences")
VARIED_STAGES = (
    "jobs.item_graph",
    "jobs.soft_targets",
    "trainer.training",
    "trainer.evaluation",
)

UserValues = dict[str, list[np.ndarray]]
"""By metric: per-user values, one array a night, the mean over its seeds; and ids as `USERS`."""
USERS = "users"


def run_stage(
    module: str,
    ds: date,
    root: Path,
    changes: Mapping[str, str],
    settings_file: Path = SETTINGS_FILE,
) -> None:
    """Runs one stage to its end, as an operator would."""
    command = [sys.executable, "-m", module, "--ds", str(ds), "--root", str(root)]
    command += ["--settings", str(settings_file)]
    environment = os.environ | {f"PENUMBRA_{key}": value for key, value in changes.items()}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def user_values(root: Path, ds: date, model: str) -> dict[str, np.ndarray]:
    """Per-user values of one model's discovery metrics, users in sequences order."""
    cards = get(root, SCORECARDS, ds).read().to_pylist()
    return {
        card["metric"]: np.asarray(card["user_values"])
        for card in cards
        if card["model"] == model and card["exclude_seen"] and card["metric"] in METRICS
    }


def users_of(root: Path, ds: date) -> np.ndarray:
    """Ids of the users whose values `user_values` gives, in their order."""
    sequences, items = get(root, SEQUENCES, ds).read(), get(root, ITEMS, ds)
    holdout = holdout_of(sequences, items.manifest.rows, exclude_seen=True)
    return sequences["user_id"].to_numpy()[holdout.users]


def collect(
    root: Path, nights: Sequence[date], seeds: Sequence[int], variants: Sequence[str]
) -> dict[str, UserValues]:
    """Runs everything; per-user values by model, in the same order of nights for every model."""
    found: dict[str, UserValues] = {}
    load_events(root, load(SETTINGS_FILE), nights)
    for ds in nights:
        for stage in SHARED_STAGES:
            run_stage(stage, ds, root, {})
        of_night: dict[str, UserValues] = {}
        for seed in seeds:
            for variant in variants:
                changes = VARIANTS[variant] | {"TRAINING__SEED": str(seed)}
                for stage in VARIED_STAGES:
                    run_stage(stage, ds, root, changes)
                _add(of_night, variant, user_values(root, ds, "candidate"))
                line = {m: round(float(v[-1].mean()), 4) for m, v in of_night[variant].items()}
                print(f"{ds} seed {seed} {variant}: {line}", file=sys.stderr, flush=True)
        for baseline in BASELINES:
            _add(of_night, baseline, user_values(root, ds, baseline))
        users = {USERS: users_of(root, ds)}
        for model, values in of_night.items():
            means = {metric: np.mean(of, axis=0) for metric, of in values.items()}
            _add(found, model, means | users)
    return found


def table(found: Mapping[str, UserValues]) -> Table:
    """Mean of each model's metrics, and its gain over item-kNN in percent with standard error."""
    view = Table("model", *METRICS, *(f"{m} against item_knn" for m in METRICS))
    for model, values in found.items():
        means = [f"{np.concatenate(values[m]).mean():.4f}" for m in METRICS]
        users, opponent = np.concatenate(values[USERS]), found["item_knn"]
        view.add_row(model, *means, *(_gain(users, values[m], opponent[m]) for m in METRICS))
    return view


def _add(found: dict[str, UserValues], model: str, values: Mapping[str, np.ndarray]) -> None:
    for metric, per_user in values.items():
        found.setdefault(model, {}).setdefault(metric, []).append(per_user)


def _gain(users: np.ndarray, values: list[np.ndarray], opponent: list[np.ndarray]) -> str:
    ours, theirs = np.concatenate(values), np.concatenate(opponent)
    gain = 100 * (ours - theirs) / theirs.mean()
    _, user = np.unique(users, return_inverse=True)
    of_users = np.bincount(user, weights=gain - gain.mean())
    return f"{gain.mean():+.1f} ± {np.sqrt((of_users**2).sum()) / len(gain):.1f} %"


def main(arguments: Sequence[str]) -> None:
    """Runs the variants that the command line names and prints the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.discovery", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("var-bench"))
    parser.add_argument("--nights", nargs="+", type=date.fromisoformat, default=NIGHTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[17])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args(arguments)
    found = collect(options.root.resolve(), options.nights, options.seeds, options.variants)
    Console().print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
