"""Soft targets: the soft_targets table, looked up for whole batches of examples.

The soft target of user u and observed item y is q = (1-β)·P[y] + β·U[u], with P the rows of
items and U those of users. With γ it becomes (1-γ)·q + γ·P'[x], x being the item before y and P'[x]
its row without x, scaled to sum to 1: in a directed graph, what others had next. Rows are merged,
and the mass on y itself is kept apart.

    N examples, V items (rows 0..V, row 0 is padding), U users, K entries of a row
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from schemas.contract import PADDING_INDEX
from schemas.errors import DataError
from schemas.settings import TrainingSettings
from schemas.soft_targets import SOFT_TARGETS
from trainer.examples import Examples
from trainer.user_rows import UserRows, refuse_unknown, user_rows

COLUMNS = ("kind", "seed_id", "item_indices", "masses")


@dataclass(frozen=True)
class Rows:
    """Sparse rows: `items_RK` int32, ascending, padded on the left; `masses_RK` float32."""

    items_RK: Tensor
    masses_RK: Tensor

    @classmethod
    def empty(cls, num_rows: int) -> "Rows":
        """Rows without an entry."""
        return cls(torch.empty(num_rows, 0, dtype=torch.int32), torch.empty(num_rows, 0))

    def at(self, rows_N: Tensor) -> tuple[Tensor, Tensor]:
        """Items and masses [N, K] of some rows."""
        return self.items_RK[rows_N], self.masses_RK[rows_N]


class SoftTargets:
    """Looks up q for observed items, users and the items before.

    An item without a row is its own soft target (one-hot); a user without a row, or an item before
    that leads nowhere, has no share in q. With β = γ = 0 an example costs one look-up.

    Args:
        own_masses_V: Mass of every item's row on the item itself.
        others: Rows of items, without their own mass.
        users: Rows of users, None where β is 0.
        beta: β.
        gamma: γ.
    """

    def __init__(
        self,
        own_masses_V: Tensor,
        others: Rows,
        users: UserRows | None = None,
        beta: float = 0.0,
        gamma: float = 0.0,
    ) -> None:
        self.own_masses_V, self.others, self.users = own_masses_V, others, users
        self.beta, self.gamma = beta, gamma

    def examples(self, targets_N: Tensor, users_N: Tensor, inputs_N: Tensor) -> Examples:
        """The examples of observed items, users (row numbers) and items before; all int64."""
        mix = Mix(self.own_masses_V[targets_N], [self.others.at(targets_N)])
        if self.users is not None:
            mix = mix.with_share(self.beta, *self.users.at(users_N), targets_N)
        if self.gamma:
            items_NK, masses_NK = self.others.at(inputs_N)
            sums_N1 = masses_NK.sum(1, keepdim=True)
            masses_NK = torch.where(sums_N1 > 0, masses_NK / sums_N1, 0.0)
            mix = mix.with_share(self.gamma, items_NK, masses_NK, targets_N)
        items, masses = (torch.cat(parts, 1) for parts in zip(*mix.rows, strict=True))
        return Examples(targets_N, mix.own_N, items.long(), masses)


class Mix(NamedTuple):
    """Soft targets of N examples in the making.

    `own_N` is the mass on the observed items, `rows` are items and masses [N, K] of the others; no
    item has mass in two of them.
    """

    own_N: Tensor
    rows: list[tuple[Tensor, Tensor]]

    def with_share(
        self, share: float, items_NM: Tensor, masses_NM: Tensor, targets_N: Tensor
    ) -> "Mix":
        """Gives more rows a share, where they have mass, and all there is so far the rest."""
        share_N1 = torch.where((masses_NM > 0).any(1), share, 0.0)[:, None]
        rest_N1, masses_NM = 1 - share_N1, masses_NM * share_N1
        own_N1 = self.own_N[:, None] * rest_N1
        own_N1 += _move(items_NM, masses_NM, targets_N[:, None].int())
        rows = [
            (items_NK, masses_NK * rest_N1 + _move(items_NM, masses_NM, items_NK))
            for items_NK, masses_NK in self.rows
        ]
        return Mix(own_N1[:, 0], [*rows, (items_NM, masses_NM)])


def no_soft_targets(num_items: int) -> SoftTargets:
    """Every observed item is its own soft target: for losses that use none."""
    return SoftTargets(torch.ones(num_items + 1), Rows.empty(num_items + 1))


def from_batches(
    soft_targets: Iterable[pa.Table],
    items: pa.Table,
    user_ids: Iterable[pa.ChunkedArray],
    settings: TrainingSettings,
    folder: Path | None = None,
) -> SoftTargets:
    """The look-up over the soft_targets table.

    Args:
        soft_targets: Rows of soft_targets in key order, so those of items come first.
        items: Rows of items, of the same night.
        user_ids: Raw ids of the users, ascending, in the order in which examples number them.
        settings: β, where it is above 0 user rows are read, and γ.
        folder: Where flat files of user rows go; None takes the system's temporary folder.

    Raises:
        DataError: β is above 0 and there are no user rows, or the tables do not fit together.
    """
    num_items, batches = items.num_rows, (batch.select(COLUMNS) for batch in soft_targets)
    of_users = [SOFT_TARGETS.schema.empty_table().select(COLUMNS)]

    def of_items() -> Iterator[pa.Table]:
        for batch in batches:
            yield batch.filter(pc.equal(batch["kind"], "item"))
            of_users[0] = batch.filter(pc.equal(batch["kind"], "user"))
            if of_users[0].num_rows:
                return

    own_masses_V, others = _of_items(of_items(), items)
    beta, gamma = settings.beta, settings.gamma
    if beta == 0:
        return SoftTargets(own_masses_V, others, gamma=gamma)
    if not of_users[0].num_rows:
        raise DataError(
            f"no user rows in soft_targets, with training.beta = {beta}",
            "rows of users to mix in",
            "soft_targets.user_seeds = true, or training.beta = 0",
        )
    rows = user_rows(chain(of_users, batches), user_ids, folder)
    _refuse_beyond(int(rows.items.max(initial=0)), num_items)
    return SoftTargets(own_masses_V, others, rows, beta, gamma)


def _of_items(batches: Iterable[pa.Table], items: pa.Table) -> tuple[Tensor, Rows]:
    """Mass of every item's row on the item itself [V + 1], and the rows without it."""
    num_rows, ids = items.num_rows + 1, items["item_id"].combine_chunks()
    index = items["item_index"].to_numpy()
    own_masses_V = np.ones(num_rows, dtype=np.float32)
    items_RK = np.full((num_rows, 1), PADDING_INDEX, dtype=np.int32)
    masses_RK = np.zeros((num_rows, 1), dtype=np.float32)
    for rows in batches:
        places = pc.index_in(rows["seed_id"], ids)
        refuse_unknown(rows["seed_id"], places, "items")
        seeds = index[places.to_numpy()]
        items_NK, masses_NK = _padded(rows, items.num_rows)
        if (wider := items_NK.shape[1] - items_RK.shape[1]) > 0:
            items_RK, masses_RK = (np.pad(a, ((0, 0), (wider, 0))) for a in (items_RK, masses_RK))
        is_own_NK = items_NK == seeds[:, None]
        own_masses_N = (masses_NK * is_own_NK).sum(1)
        own_masses_V[seeds] = np.where(masses_NK.any(1), own_masses_N, 1.0)
        masses_NK[is_own_NK] = 0.0
        items_RK[seeds, -items_NK.shape[1] :] = items_NK
        masses_RK[seeds, -items_NK.shape[1] :] = masses_NK
    rows_RK = Rows(torch.from_numpy(items_RK), torch.from_numpy(masses_RK))
    return torch.from_numpy(own_masses_V), rows_RK


def _move(items_NK: Tensor, masses_NK: Tensor, wanted_NM: Tensor) -> Tensor:
    """Takes the masses of wanted items [N, M] out of rows (in place) and returns them [N, M]."""
    places_NM = torch.searchsorted(items_NK, wanted_NM).clamp_max(items_NK.shape[1] - 1)
    is_there_NM = (items_NK.gather(1, places_NM) == wanted_NM) & (wanted_NM != PADDING_INDEX)
    moved_NM = masses_NK.gather(1, places_NM) * is_there_NM
    masses_NK.scatter_add_(1, places_NM, -moved_NM)
    return moved_NM


def _padded(table: pa.Table, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """List columns as padded rows: items int32 and masses float32 [N, K]."""
    lengths = pc.list_value_length(table["item_indices"]).to_numpy()
    items, masses = (table[name].combine_chunks().flatten() for name in ("item_indices", "masses"))
    _refuse_beyond(pc.max(items).as_py() or 0, num_items)
    width = int(lengths.max(initial=1))
    places = np.arange(len(items)) - np.repeat(np.cumsum(lengths), lengths) + width
    at = np.repeat(np.arange(len(lengths)), lengths), places
    items_NK = np.full((len(lengths), width), PADDING_INDEX, dtype=np.int32)
    masses_NK = np.zeros((len(lengths), width), dtype=np.float32)
    items_NK[at], masses_NK[at] = items.to_numpy(), masses.to_numpy()
    return items_NK, masses_NK


def _refuse_beyond(greatest: int, num_items: int) -> None:
    if greatest > num_items:
        raise DataError(
            f"item_index {greatest} in soft_targets",
            f"at most {num_items}, the size of items",
            "re-run jobs.soft_targets for this date: it read other items",
        )
