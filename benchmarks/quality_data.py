"""Quality data: public data sets as raw events, and the settings that are the same for all losses.

| data set | file in the folder of data | what it is |
|---|---|---|
| beauty | `beauty_s3rec.txt` | Amazon Beauty as prepared for S3-Rec: a user and its items a line |
| diginetica | `diginetica_desorec.csv` | the paper's input: sessions as users, left-padded with 0 |
| ml1m | none: fetched | MovieLens-1M, items with 5 ratings or more |
| music30 | `music30_sessions.parquet` | a year of music plays with their times |

Where times are missing, or only order matters, a user's actions are one second apart on one day.
Then everyone's last action is held out and the last but one validates; of music30 the last week
is held out and the week before validates.

Seen items: authors' code of SASRec+ and gSASRec leaves them out of the ranking by default
(`filter_seen: True` in antklen/sasrec-bert4rec-recsys23, `filter_rated=True` in
asash/gSASRec-pytorch), so ml1m does, too; elsewhere all items are ranked. Scores keep both.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import dataset

from benchmarks.movielens import fetch
from benchmarks.quality_space import (
    EPOCHS,
    LOSSES,
    METHOD,
    OWN,
    SHARED,
    Changes,
    Choices,
    openings,
)
from schemas.errors import DataError, MissingInputError
from schemas.settings import Settings, load

DAY = date(2024, 1, 1)
"""Of all actions whose times are made up."""
SECONDS_PER_DAY = 86_400
MOST_ACTIONS = 10_000
"""Of one MovieLens user; more than anyone has."""
EVERYONE: dict[str, Any] = {
    "targets": "all",
    "validation_users": 1_000_000,
    "schedule": "cosine",
    "precision": "bfloat16",
    "width": 128,
    "history_skip": False,
}
"""Every next item is a target, every user validates; the rate ends at 0 with the epochs.

On Beauty, the larger of two widths was better for every loss, and history skip hurt every loss.
"""

HistoryLists = Mapping[str, Sequence[str]]
"""Raw item ids by raw user id, oldest first."""
Read = Callable[[Path, Path], pa.Table]
"""Raw events from a folder of data and a folder for downloads."""


@dataclass(frozen=True)
class DataSet:
    """A data set: how it becomes events, and what its settings are.

    `settings` differ from `pipeline.toml`'s defaults, section by section. What a search draws
    (`benchmarks/quality_space.py`) comes on top: `choices` are this data set's own by backbone, the
    same for all losses, `of_loss` those by loss. `start` is where a loss begins: its best of
    earlier trainings; `second` is what every loss's second trial changes, by backbone.
    """

    name: str
    ds: date
    read: Read
    settings: Mapping[str, Mapping[str, Any]]
    choices: Mapping[str, Choices] = field(default_factory=dict)
    of_loss: Mapping[str, Choices] = field(default_factory=dict)
    start: Mapping[str, Mapping[str, Changes]] = field(default_factory=dict)
    second: Mapping[str, Changes] = field(default_factory=dict)

    def home(self, root: Path) -> Path:
        """The folder of everything about this data set under a root."""
        return root / self.name

    def space(self, backbone: str, loss: str) -> tuple[Choices, list[Changes]]:
        """What a search may choose from for a loss, and the trials it begins with."""
        choices = {**SHARED, **self.choices.get(backbone, {}), **self.loss_choices(loss)}
        start = self.start.get(backbone, {}).get(loss, {})
        return choices, openings(choices, start, self.second.get(backbone))

    def loss_choices(self, loss: str) -> Choices:
        """What only one loss looks at."""
        return {**OWN[loss], **self.of_loss.get(loss, {})}

    def load_settings(self, root: Path) -> Settings:
        """The settings that `write_settings` wrote, under environment variables as everywhere."""
        return load(self.settings_file(root))

    def settings_file(self, root: Path) -> Path:
        """The TOML file that the stages are given."""
        return self.home(root) / "settings.toml"


def write_settings(data: DataSet, root: Path) -> Path:
    """Writes a data set's settings as TOML; returns the file."""
    file, lines = data.settings_file(root), list[str]()
    for section, values in data.settings.items():
        # JSON's numbers, texts and truth values are TOML's.
        lines += [f"[{section}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items()), ""]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines))
    return file


def write_events(data: DataSet, root: Path, source: Path) -> int:
    """Writes raw events under `<root>/<name>/night`, one folder a day; returns how many.

    Raises:
        MissingInputError: The folder of data lacks the file.
    """
    events = data.read(source, root / "downloads")
    events = events.append_column("ds", pc.strftime(events["event_time"], "%Y-%m-%d"))
    dataset.write_dataset(
        events,
        data.home(root) / "night" / "events",
        format="parquet",
        partitioning=["ds"],
        partitioning_flavor="hive",
        existing_data_behavior="delete_matching",
    )
    return events.num_rows


def ordered_events(histories: HistoryLists) -> pa.Table:
    """Events of one day from histories alone, one second after the other for each user.

    Raises:
        DataError: A history does not fit into a day.
    """
    lengths = np.array([len(items) for items in histories.values()])
    if lengths.max() > SECONDS_PER_DAY:
        found = f"a history of {lengths.max()} actions"
        raise DataError(found, f"at most {SECONDS_PER_DAY}, the seconds of a day", "the data")
    seconds = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    midnight = int(datetime.combine(DAY, datetime.min.time(), UTC).timestamp())
    times = pa.array(midnight + seconds, pa.timestamp("s", "UTC"))
    return pa.table(
        {
            "user_id": pa.array(np.repeat(list(histories), lengths)),
            "item_id": pa.array([item for items in histories.values() for item in items]),
            "event_time": times.cast(pa.timestamp("us", "UTC")),
        }
    )


def frequent(histories: HistoryLists, min_actions: int) -> dict[str, list[str]]:
    """The same histories without items that have fewer actions in all."""
    counts = Counter(item for items in histories.values() for item in items)
    kept = {u: [i for i in items if counts[i] >= min_actions] for u, items in histories.items()}
    return {user: items for user, items in kept.items() if items}


def read_beauty(source: Path, _: Path) -> pa.Table:
    """A line is a user and its items in order."""
    lines = [line.split() for line in _file(source, "beauty_s3rec.txt").read_text().splitlines()]
    return ordered_events({user: items for user, *items in lines})


def read_diginetica(source: Path, _: Path) -> pa.Table:
    """A line is a session, padded with 0 on the left; its number becomes the user."""
    lines = _file(source, "diginetica_desorec.csv").read_text().splitlines()
    sessions = ([item for item in line.split(",") if item != "0"] for line in lines)
    return ordered_events({str(number): items for number, items in enumerate(sessions)})


def read_ml1m(_: Path, downloads: Path) -> pa.Table:
    """Every rating is an action; items with fewer than 5 go, which leaves 6,040 users, 3,416 items.

    The published numbers are of this catalogue. Ratings of one second stay in the file's order.
    """
    stored = np.load(fetch(downloads, MOST_ACTIONS))
    lists = np.split(stored["items"].astype(str), stored["offsets"][1:-1])
    histories = {str(number): items.tolist() for number, items in enumerate(lists, start=1)}
    return ordered_events(frequent(histories, min_actions=5))


def read_music30(source: Path, _: Path) -> pa.Table:
    """A row is a play, `ts` in seconds since 1970."""
    plays = pq.read_table(_file(source, "music30_sessions.parquet"))
    return pa.table(
        {
            "user_id": plays["user_id"].cast(pa.string()),
            "item_id": plays["song_id"].cast(pa.string()),
            "event_time": plays["ts"]
            .cast(pa.timestamp("s", "UTC"))
            .cast(pa.timestamp("us", "UTC")),
        }
    )


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise MissingInputError(f"no {name} in {folder}", "the file of the data set", "--data")
    return folder / name


def _leave_one_out(*, exclude_seen: bool, **training: Any) -> dict[str, dict[str, Any]]:
    """Settings with everyone's last action held out, on the whole catalogue.

    Histories are kept whole. All actions are of one day, so popularity is that of all of them.
    """
    return {
        "events": {"history_days": 2},
        "split": {"protocol": "leave_one_out"},
        "items": {"min_support": 1},
        "sequences": {"max_history": MOST_ACTIONS},
        "soft_targets": {"max_iterations": 100},
        "training": EVERYONE | {"popularity_days": 0} | training,
        "evaluation": {"exclude_seen": exclude_seen},
    }


_MUSIC30: dict[str, dict[str, Any]] = {
    "events": {"history_days": 366},
    "split": {"protocol": "temporal", "holdout_days": 7, "validation_days": 7},
    "items": {"min_support": 1},
    "soft_targets": {"max_iterations": 100},
    "training": EVERYONE | {"max_length": 100, "batch_size": 64, "epochs": 16, "patience": 5},
    "evaluation": {"exclude_seen": False},
}
_MUSIC30_OF_LOSS: dict[str, Choices] = {
    # `targets` ranks best with a graph of both directions here, and finds twice as much in the rows
    # of users.
    METHOD: {"item_graph.direction": ("symmetric",), "training.beta": (0.5,)}
}
_BEAUTY = _leave_one_out(
    exclude_seen=False, max_length=50, num_blocks=1, batch_size=64, epochs=16, patience=5
)
_BEAUTY_CHOICES: dict[str, Choices] = {
    "mlp": {EPOCHS: (16, 8, 4)},
    "deepfm": {EPOCHS: (16, 8, 4)},
    "gru4rec": {EPOCHS: (16, 8, 4)},
    "sasrec": {EPOCHS: (32, 16, 8)},
}
_BEAUTY_START: dict[str, dict[str, Changes]] = {
    "gru4rec": {
        "cross_entropy": {"training.learning_rate": 1e-3, "training.dropout": 0.4},
        "label_smoothing": {"training.learning_rate": 1e-3, "training.dropout": 0.2},
        "decoupled": {EPOCHS: 4},
    },
    "mlp": {loss: {"training.learning_rate": 5e-4} for loss in LOSSES},
    "deepfm": {loss: {"training.learning_rate": 5e-4, "training.dropout": 0.5} for loss in LOSSES},
    "sasrec": {
        "cross_entropy": {"training.learning_rate": 1e-3, "training.dropout": 0.4},
        "label_smoothing": {"training.learning_rate": 1e-3, "training.dropout": 0.4},
        "decoupled": {EPOCHS: 8, "training.gamma": 0.4, "training.softness": "constant"},
    },
}
_SLOWER: dict[str, Changes] = {
    # What Beauty's baselines were best with. The first choices are those of the method there, with
    # GRU4Rec and SASRec: no loss may win because another was tried at its rival's only.
    "mlp": {"training.learning_rate": 5e-4},
    "deepfm": {"training.learning_rate": 5e-4, "training.dropout": 0.5},
    "gru4rec": {"training.learning_rate": 1e-3, "training.dropout": 0.4},
    "sasrec": {"training.learning_rate": 1e-3, "training.dropout": 0.4},
}
_DIGINETICA = _leave_one_out(
    exclude_seen=False, max_length=20, num_blocks=1, batch_size=128, epochs=16, patience=5
)
_ML1M = _leave_one_out(exclude_seen=True, max_length=200, batch_size=32, epochs=25, patience=10)

DATA_SETS = {
    data.name: data
    for data in (
        DataSet("beauty", DAY, read_beauty, _BEAUTY, _BEAUTY_CHOICES, start=_BEAUTY_START),
        DataSet("diginetica", DAY, read_diginetica, _DIGINETICA, second=_SLOWER),
        DataSet("ml1m", DAY, read_ml1m, _ML1M, second=_SLOWER),
        DataSet(
            "music30",
            date(2015, 1, 20),
            read_music30,
            _MUSIC30,
            of_loss=_MUSIC30_OF_LOSS,
            second=_SLOWER,
        ),
    )
}
