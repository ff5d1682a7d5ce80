"""Report users: some users of the night, what they did and what they are recommended."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from schemas.names import names_of
from schemas.partitions import Partition
from schemas.settings import Settings
from trainer.page import Person, Section, counted
from trainer.report_data import Tables, missing

OFTENEST = 10
"""Items of a history that are shown."""


def users(root: Path, tables: Tables, settings: Settings) -> Section:
    """Users from the shortest history to the longest, evenly apart in their order.

    Raises:
        DataError: The file of names lacks a column.
    """
    title = "Recommendations"
    if not {"recommendations", "sequences", "items"} <= tables.keys():
        return Section(title, [missing("recommendations")])
    histories = histories_of(tables["sequences"], settings.report.num_users)
    item_ids = tables["items"].read(["item_id"])["item_id"].to_pylist()
    did = {user: [item_ids[n - 1] for n in indices] for user, indices in histories}
    lists = recommended_to(tables["recommendations"], list(did))
    known = {item for items in [*did.values(), *lists.values()] for item in items}
    file = root / settings.report.names
    names = names_of(file, known) if settings.report.names and file.is_file() else {}
    people = [_person(user, did[user], lists[user], names) for user in did]
    version = tables["recommendations"].read(["model_version"])["model_version"][0].as_py()
    words = [
        f"Made by model version {version}. {len(people)} of {tables['sequences'].manifest.rows:,} "
        "users, from the shortest history to the longest."
    ]
    if not names:
        words.append(
            f"Items are shown by their ids: there is no {settings.report.names or 'report.names'}."
        )
    return Section(title, words, people=people)


def histories_of(sequences: Partition, num_users: int) -> list[tuple[str, list[int]]]:
    """Some users and their items, oldest first.

    Users in the order of the length of their histories, then of their ids: the first, the last,
    and others evenly between them.
    """
    lengths: list[tuple[int, str]] = []
    for batch in sequences.batches(["user_id", "item_indices"]):
        of_users = pc.list_value_length(batch["item_indices"]).to_pylist()
        lengths += zip(of_users, batch["user_id"].to_pylist(), strict=True)
    lengths.sort()
    last, num = len(lengths) - 1, min(num_users, len(lengths))
    chosen = [lengths[round(n * last / max(num - 1, 1))][1] for n in range(num)]
    found = {
        row["user_id"]: row["item_indices"]
        for row in _rows(sequences, ["user_id", "item_indices"], chosen)
    }
    return [(user, found[user]) for user in chosen]


def recommended_to(recommendations: Partition, user_ids: list[str]) -> dict[str, list[str]]:
    """Items by user, best first; none for a user without any."""
    lists: dict[str, list[str]] = {user: [] for user in user_ids}
    for row in _rows(recommendations, ["user_id", "rank", "item_id"], user_ids):
        lists[row["user_id"]].append(row["item_id"])
    return lists


def _rows(partition: Partition, columns: list[str], user_ids: list[str]) -> Iterable[dict]:
    wanted = pa.array(user_ids, pa.string())
    for batch in partition.batches(columns, 65_536):
        yield from batch.filter(pc.is_in(batch["user_id"], wanted)).to_pylist()


def _person(user: str, did: list[str], recommended: list[str], names: dict[str, str]) -> Person:
    counts, latest = Counter(did), {item: n for n, item in enumerate(did)}
    often = sorted(counts, key=lambda item: (-counts[item], -latest[item]))[:OFTENEST]
    return Person(
        f"User {user}",
        f"{counted(len(did), 'action')} on {counted(len(counts), 'item')}",
        [f"{counts[item]} × {names.get(item, item)}" for item in often],
        [(names.get(item, item), "(had before)" if item in counts else "") for item in recommended],
    )
