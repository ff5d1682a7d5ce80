"""Propagation: the compiled kernels that spread label mass over the item graph.

    Y_{t+1} = α Y_t S + (1-α) Y_0          (Zhou et al., Learning with Local and Global
                                            Consistency, NIPS 2003, eq. in §2; row vectors)

S is the row-stochastic graph, Y_0 one-hot seeds. Every row is computed from itself and S alone,
frozen at its own convergence and pruned to its own largest entries, so that a seed's result
does not depend on the block it is computed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from jobs.shared_rows import Rows
from jobs.spreading import UNIT, add, scratch, settle, spread
from schemas.settings import SoftTargetsSettings


@dataclass(frozen=True)
class Block:
    """N rows in the making, K entries at most in each.

    `columns` and `units` are [N, K], of which row n uses the first `lengths[n]`; `change` is the
    last L1 change, 2 before the first iteration. A row that `is_held` keeps to its columns.
    """

    columns: NDArray[np.int32]
    units: NDArray[np.int64]
    lengths: NDArray[np.int64]
    change: NDArray[np.float64]
    is_pruned: NDArray[np.bool_]
    is_held: NDArray[np.bool_]

    @classmethod
    def empty(cls, num_rows: int, top_k: int) -> "Block":
        """Rows without mass."""
        shape, never = (num_rows, top_k), np.zeros(num_rows, bool)
        columns, units = np.zeros(shape, np.int32), np.zeros(shape, np.int64)
        lengths, change = np.zeros(num_rows, np.int64), np.full(num_rows, 2.0)
        return cls(columns, units, lengths, change, never, never.copy())

    @classmethod
    def of_seeds(cls, seeds: NDArray[np.int32], top_k: int) -> "Block":
        """Y_0: all mass of every row on its seed."""
        block = cls.empty(len(seeds), top_k)
        block.columns[:, 0], block.units[:, 0], block.lengths[:] = seeds, int(UNIT), 1
        return block

    def state(self) -> tuple[NDArray[Any], ...]:
        """All arrays, as the kernels of `jobs/spreading.py` take and change them."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def as_rows(self) -> Rows:
        """The rows as CSR, columns ascending, with mass as a number in [0, 1]."""
        is_used = np.arange(self.columns.shape[1]) < self.lengths[:, None]
        columns = np.where(is_used, self.columns, np.iinfo(np.int32).max)
        order = np.argsort(columns, axis=1)
        masses = np.take_along_axis(self.units, order, axis=1)[is_used] / UNIT
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        return ends, np.take_along_axis(columns, order, axis=1)[is_used], masses

    def dropped(self) -> NDArray[np.float64]:
        """The mass that every row lacks, N long."""
        is_used = np.arange(self.columns.shape[1]) < self.lengths[:, None]
        return np.maximum(1 - (self.units * is_used).sum(axis=1) / UNIT, 0)


@dataclass(frozen=True)
class Trace:
    """What iterations did to a block of seeds; vectors as long as the iterations, T.

    `residual` is the largest L1 change of a row, `active` the number of rows computed, `held`
    those of them that keep to their columns, and `dropped` the mass that all rows of the block
    lack after the iteration.
    """

    residual: NDArray[np.float64]
    active: NDArray[np.int64]
    held: NDArray[np.int64]
    dropped: NDArray[np.float64]
    num_unconverged: int


def transition(
    first: int,
    end: int,
    item: NDArray[np.int32],
    neighbour: NDArray[np.int32],
    weight: NDArray[np.float64],
) -> Rows:
    """Rows [first, end) of the row-stochastic graph S, from edges in the order of the item.

    An item without edges (or with edges of weight 0 only) leads to itself and keeps its mass.
    """
    has_weight = weight > 0
    row, neighbour, weight = item[has_weight] - first, neighbour[has_weight], weight[has_weight]
    total = np.bincount(row, weights=weight, minlength=end - first)
    alone = np.flatnonzero(total == 0)
    rows = np.concatenate([row, alone])
    order = np.argsort(rows, kind="stable")
    columns = np.concatenate([neighbour, alone + first])[order].astype(np.int32)
    share = np.concatenate([weight / total[row], np.ones(len(alone))])[order]
    return (
        np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=end - first))]),
        columns,
        share,
    )


def propagate(
    seeds: NDArray[np.int32], graph: Rows, settings: SoftTargetsSettings
) -> tuple[Block, Trace]:
    """Label mass that reached items from each of N seeds, every row to its own convergence.

    Args:
        seeds: Item indices, N long.
        graph: S, all V + 1 rows.
        settings: α, tolerance, max_iterations and top_k.

    Returns:
        Rows that with what was dropped sum to 1, and the trace. Rows that did not converge hold
        their last iteration.
    """
    block = Block.of_seeds(seeds, settings.top_k)
    traces = np.zeros((4, settings.max_iterations))
    kind = (settings.alpha, settings.tolerance)
    num_unconverged = _propagate(seeds, block.state(), graph, *kind, traces)
    residual, active, held, dropped = traces[:, : np.count_nonzero(traces[1])]
    return block, Trace(residual, active.astype(int), held.astype(int), dropped, num_unconverged)


@njit(cache=True)
def _propagate(seeds, block, graph, alpha, tolerance, traces):  # type: ignore[no-untyped-def]
    columns, units, lengths, change, _, is_held = block
    found, touched, before, heap = scratch(len(graph[0]) - 1, columns.shape[1])
    kept = np.array([np.int64((1 - alpha) * UNIT)])
    num_unconverged = 0
    for row in range(len(seeds)):
        is_active = True
        for iteration in range(traces.shape[1]):
            if is_active:
                length = lengths[row]
                num_touched = spread(
                    columns[row, :length], units[row, :length], alpha, 0, *graph,
                    found, touched, 0,
                )  # fmt: skip
                num_touched = add(seeds[row : row + 1], kept, found, touched, num_touched)
                settle(row, seeds[row], block, found, touched, num_touched, before, heap, alpha)
                traces[0, iteration] = max(traces[0, iteration], change[row])
                traces[1, iteration] += 1
                traces[2, iteration] += is_held[row]
                is_active = change[row] >= tolerance
            traces[3, iteration] += 1 - units[row, : lengths[row]].sum() / UNIT
        num_unconverged += is_active
    return num_unconverged


def mix(
    histories: NDArray[np.int32],
    lengths: NDArray[np.int64],
    item_rows: Rows,
    settings: SoftTargetsSettings,
) -> Block:
    """Users' soft targets U[u] = Σ_p r_p P[x_p], pruned to `top_k`; linear, never iterated.

    Args:
        histories: Item indices of N users, one user after the other, oldest first.
        lengths: Actions per user, N long, each ≥ 1.
        item_rows: P, all V + 1 rows.
        settings: `user_recency`: r_p falls by it with every later action and sums to 1.
    """
    block = Block.empty(len(lengths), settings.top_k)
    shares = recency_shares(lengths, settings.user_recency)
    _mix(histories, np.cumsum(lengths), shares, block.state(), item_rows)
    return block


def recency_shares(lengths: NDArray[np.int64], user_recency: float) -> NDArray[np.float64]:
    """r_p of all actions of N users, in units of mass; each user's sum to 1."""
    later = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(lengths.sum())
    recency = np.power(user_recency, later)
    user = np.repeat(np.arange(len(lengths)), lengths)
    return UNIT * recency / np.bincount(user, weights=recency, minlength=len(lengths))[user]


@njit(cache=True)
def _mix(histories, user_ends, shares, block, item_rows):  # type: ignore[no-untyped-def]
    found, touched, before, heap = scratch(len(item_rows[0]) - 1, block[0].shape[1])
    start = 0
    for row, end in enumerate(user_ends):
        num_touched = spread(
            histories[start:end], shares[start:end], 1.0, 0, *item_rows, found, touched, 0
        )
        settle(row, 0, block, found, touched, num_touched, before, heap, 1.0)
        start = end


def join_traces(traces: Sequence[Trace]) -> Trace:
    """The trace of all blocks together; a block that finished early keeps what it dropped."""
    length = max(len(trace.residual) for trace in traces)

    def stack(name: str, mode: Any) -> NDArray[Any]:
        vectors = [getattr(trace, name) for trace in traces]
        return np.stack([np.pad(v, (0, length - len(v)), mode=mode) for v in vectors])

    return Trace(
        residual=stack("residual", "constant").max(axis=0),
        active=stack("active", "constant").sum(axis=0),
        held=stack("held", "constant").sum(axis=0),
        dropped=stack("dropped", "edge").sum(axis=0),
        num_unconverged=sum(trace.num_unconverged for trace in traces),
    )
