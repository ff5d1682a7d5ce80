"""User rows: the soft targets of users in flat files, so that memory does not grow with them.

U users, N examples, K entries of the longest row among some examples
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from schemas.contract import PADDING_INDEX
from schemas.errors import DataError
from trainer.flat_files import FlatFile


@dataclass(frozen=True)
class UserRows:
    """Sparse rows one behind the other; user u owns entries `ends[u - 1]` to before `ends[u]`.

    Shapes: `ends_U` int64; `items` int32, ascending in a row, and `masses` float32 [entries].
    """

    ends_U: np.ndarray
    items: np.ndarray
    masses: np.ndarray

    def at(self, users_N: Tensor) -> tuple[Tensor, Tensor]:
        """Items int32 and masses [N, K] of some users, padded on the left."""
        users = users_N.numpy()
        ends = self.ends_U[users]
        starts = np.where(users > 0, self.ends_U[users - 1], 0)
        width = max(int((ends - starts).max(initial=0)), 1)
        places_NK = ends[:, None] - width + np.arange(width)
        is_real_NK = places_NK >= starts[:, None]
        items_NK = np.full(places_NK.shape, PADDING_INDEX, dtype=np.int32)
        masses_NK = np.zeros(places_NK.shape, dtype=np.float32)
        places = places_NK[is_real_NK]
        items_NK[is_real_NK], masses_NK[is_real_NK] = self.items[places], self.masses[places]
        return torch.from_numpy(items_NK), torch.from_numpy(masses_NK)


def user_rows(
    soft_targets: Iterable[pa.Table], user_ids: Iterable[pa.ChunkedArray], folder: Path | None
) -> UserRows:
    """Soft targets by user number; a user without any has an empty row.

    Args:
        soft_targets: Rows of users, by `seed_id` ascending.
        user_ids: Raw ids of all users, ascending, in the order in which examples number them.
        folder: Where flat files go; None takes the system's temporary folder.

    Raises:
        DataError: A row is of no user.
    """
    ends, items = FlatFile(np.int64, folder), FlatFile(np.int32, folder)
    masses = FlatFile(np.float32, folder)
    for ids, rows in _joined(iter(soft_targets), user_ids):
        users = pc.index_in(rows["seed_id"], ids)
        refuse_unknown(rows["seed_id"], users, "sequences")
        lengths = np.zeros(len(ids), dtype=np.int64)
        lengths[users.to_numpy()] = pc.list_value_length(rows["item_indices"]).to_numpy()
        ends.append(items.size + np.cumsum(lengths))
        items.append(rows["item_indices"].combine_chunks().flatten().to_numpy())
        masses.append(rows["masses"].combine_chunks().flatten().to_numpy())
    return UserRows(ends.mapped(), items.mapped(), masses.mapped())


def refuse_unknown(seeds: pa.ChunkedArray, places: pa.ChunkedArray, table: str) -> None:
    """Raises a DataError where a seed has no place in a table."""
    unknown = seeds.filter(pc.is_null(places))
    if len(unknown):
        raise DataError(
            f"{len(unknown)} seeds of soft_targets that {table} lacks, such as {unknown[0]}",
            f"seeds from {table} of the same night",
            "re-run jobs.soft_targets for this date",
        )


def _joined(
    rows: Iterator[pa.Table], user_ids: Iterable[pa.ChunkedArray]
) -> Iterator[tuple[pa.Array, pa.Table]]:
    """Every chunk of ids with the rows up to its last id: a merge of two ascending streams."""
    waiting = next(rows, None)
    for chunk in user_ids:
        ids = chunk.combine_chunks()
        if waiting is None or not len(ids):
            yield ids, _no_rows()
            continue
        last = ids[-1].as_py()
        while waiting["seed_id"][-1].as_py() <= last and (more := next(rows, None)) is not None:
            waiting = pa.concat_tables([waiting, more])
        num_here = pc.sum(pc.less_equal(waiting["seed_id"], last)).as_py()
        yield ids, waiting.slice(0, num_here)
        waiting = waiting.slice(num_here)
        if not waiting.num_rows:
            waiting = next(rows, None)
    if waiting is not None:
        refuse_unknown(waiting["seed_id"], pa.nulls(waiting.num_rows), "sequences")


def _no_rows() -> pa.Table:
    fields = {"seed_id": pa.string(), "masses": pa.list_(pa.float32())}
    fields["item_indices"] = pa.list_(pa.int32())
    return pa.schema(list(fields.items())).empty_table()
