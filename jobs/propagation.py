"""Propagation: the kernel that spreads label mass over the item graph, block by block of seeds.

    Y_{t+1} = α Y_t S + (1-α) Y_0          (Zhou et al., Learning with Local and Global
                                            Consistency, NIPS 2003, eq. in §2; row vectors)

S is the row-stochastic graph, Y_0 one-hot seeds. Every row is computed from itself and S alone,
frozen at its own convergence and pruned to its own largest entries, so that a seed's result
does not depend on the block it is computed in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from jobs.top_k import keep_top_k
from schemas.settings import SoftTargetsSettings

SEEDS_AT_ONCE = 512
"""Rows of one sparse product; bounds a task's memory, not the result."""

ROUNDING = 1e-6
"""Relative slack when changes of two iterations are compared."""


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

    @classmethod
    def empty(cls) -> "Trace":
        """The trace of rows that are not iterated."""
        none, nothing = np.zeros(0, np.int64), np.zeros(0)
        return cls(nothing, none, none, nothing, num_unconverged=0)

    def as_row(self) -> dict[str, Any]:
        """This trace as plain values, to travel to the driver."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Trace":
        """The trace that `as_row` described."""
        vectors = {n: np.array(row[n]) for n in ("residual", "active", "held", "dropped")}
        return cls(**vectors, num_unconverged=row["num_unconverged"])


def transition(
    num_items: int,
    item: NDArray[np.int32],
    neighbour: NDArray[np.int32],
    weight: NDArray[np.float64],
) -> sparse.csr_array:
    """The row-stochastic graph S, [V + 1, V + 1], from edges in the order of the item.

    An item without edges (or with edges of weight 0 only) leads to itself and keeps its mass.
    """
    has_weight = weight > 0
    item, neighbour, weight = item[has_weight], neighbour[has_weight], weight[has_weight]
    total = np.bincount(item, weights=weight, minlength=num_items + 1)
    alone = np.flatnonzero(total == 0).astype(np.int32)
    rows, columns = np.concatenate([item, alone]), np.concatenate([neighbour, alone])
    share = np.concatenate([weight / total[item], np.ones(len(alone))])
    return sparse.csr_array((share, (rows, columns)), shape=(num_items + 1, num_items + 1))


@lru_cache(maxsize=1)
def read_transition(files: tuple[Path, ...], num_items: int) -> sparse.csr_array:
    """S with an identity below, [2 (V + 1), V + 1], once per worker process, from part files.

    The identity lets one product add the seeds: [α Y | (1-α) Y_0] · [S; I].
    """
    names = ["item_index", "neighbour_index", "weight"]
    edges = pa.concat_tables([pq.ParquetFile(file).read(columns=names) for file in files])
    graph = transition(num_items, *(edges[name].to_numpy() for name in names))
    return with_seed_rows(graph)


def with_seed_rows(graph: sparse.csr_array) -> sparse.csr_array:
    """[S; I], as `propagate` multiplies with it."""
    identity = sparse.eye_array(graph.shape[0], format="csr")
    return sparse.vstack([graph, identity], format="csr")


def propagate(
    seeds: NDArray[np.int32], graph_and_seeds: sparse.csr_array, settings: SoftTargetsSettings
) -> tuple[sparse.csr_array, Trace]:
    """Label mass that reached items from each of N seeds.

    Args:
        seeds: Item indices, N long.
        graph_and_seeds: [S; I], of `with_seed_rows`.
        settings: α, tolerance, max_iterations and top_k.

    Returns:
        Y [N, V + 1], columns ascending, at most `top_k` per row, which with what was dropped
        sums to 1; and the trace. Rows that did not converge hold their last iteration.
    """
    num_seeds, width = len(seeds), graph_and_seeds.shape[1]
    ones, one_each = np.ones(num_seeds), np.arange(num_seeds + 1)
    start = sparse.csr_array((ones, seeds, one_each), shape=(num_seeds, width))
    never = np.zeros(num_seeds, bool)
    most = np.full(num_seeds, 2.0)
    rows = _Rows(np.arange(num_seeds), start, start, change=most, is_pruned=never, is_held=never)
    finished: list[_Rows] = []
    dropped = np.zeros(num_seeds)
    trace: list[tuple[float, ...]] = []
    while rows.seed.size and len(trace) < settings.max_iterations:
        rows = _iterate(rows, graph_and_seeds, settings)
        dropped[rows.seed] = 1 - rows.mass.sum(axis=1)
        trace.append((rows.change.max(), len(rows.seed), rows.is_held.sum(), dropped.sum()))
        is_converged = rows.change < settings.tolerance
        finished.append(rows.take(np.flatnonzero(is_converged)))
        rows = rows.take(np.flatnonzero(~is_converged))
    order = np.argsort(np.concatenate([r.seed for r in (*finished, rows)]))
    mass = sparse.vstack([r.mass for r in (*finished, rows)], format="csr")[order]
    residual, active, held, dropped_sums = (np.array(t) for t in zip(*trace, strict=True))
    return mass, Trace(residual, active, held, dropped_sums, num_unconverged=len(rows.seed))


@dataclass(frozen=True)
class _Rows:
    """N rows in iteration: the seed's number, Y_t, Y_0, the last L1 change, and their state."""

    seed: NDArray[np.int64]
    mass: sparse.csr_array
    start: sparse.csr_array
    change: NDArray[np.float64]
    is_pruned: NDArray[np.bool_]
    is_held: NDArray[np.bool_]

    def take(self, order: NDArray[np.int64]) -> "_Rows":
        return _Rows(*(getattr(self, name)[order] for name in self.__dataclass_fields__))


def _iterate(
    rows: _Rows, graph_and_seeds: sparse.csr_array, settings: SoftTargetsSettings
) -> _Rows:
    """One iteration of all rows, which come back in another order: held ones last.

    Without pruning a row's change falls by the factor α at least. Pruning can make columns of
    nearly the same mass take turns for ever. So a row that was pruned and whose change does not
    fall like that is held: it keeps to its columns from there on, and every further iteration
    is a contraction by α again.
    """
    rows = rows.take(np.argsort(rows.is_held, kind="stable"))
    num_free = int(np.count_nonzero(~rows.is_held))
    moved = [settings.alpha * rows.mass, (1 - settings.alpha) * rows.start]
    spread = sparse.hstack(moved, format="csr")
    free, held = spread[:num_free] @ graph_and_seeds, spread[num_free:] @ graph_and_seeds
    is_pruned = rows.is_pruned.copy()
    is_pruned[:num_free] |= np.diff(free.indptr) > settings.top_k
    held_columns = rows.mass[num_free:].astype(bool)
    kept = [keep_top_k(free, settings.top_k), held.multiply(held_columns)]
    mass = sparse.vstack(kept, format="csr")
    mass.sort_indices()
    change = abs(mass - rows.mass).sum(axis=1)
    falls = change <= settings.alpha * rows.change * (1 + ROUNDING)
    is_held = rows.is_held | (is_pruned & ~falls)
    return replace(rows, mass=mass, change=change, is_pruned=is_pruned, is_held=is_held)


def mix(
    histories: NDArray[np.int32],
    lengths: NDArray[np.int64],
    item_rows: sparse.csr_array,
    settings: SoftTargetsSettings,
) -> sparse.csr_array:
    """Users' soft targets U[u] = Σ_p r_p P[x_p], pruned to `top_k`; linear, never iterated.

    Args:
        histories: Item indices of N users, one user after the other, oldest first.
        lengths: Actions per user, N long, each ≥ 1.
        item_rows: P, [V + 1, V + 1].
        settings: `user_recency`: r_p falls by it with every later action and sums to 1.
    """
    ends = np.cumsum(lengths)
    user = np.repeat(np.arange(len(lengths)), lengths)
    later_actions = np.repeat(ends, lengths) - 1 - np.arange(len(histories))
    recency = np.power(settings.user_recency, later_actions)
    share = recency / np.bincount(user, weights=recency)[user]
    starts = np.concatenate([[0], ends])
    shape = (len(lengths), item_rows.shape[0])
    shares = sparse.csr_array((share, histories, starts), shape=shape)
    return keep_top_k(shares @ item_rows, settings.top_k)


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
