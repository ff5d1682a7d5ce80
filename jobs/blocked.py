"""Blocked: propagation where the graph is too large for every worker to hold.

Seeds and items are cut into blocks. In every iteration the mass of a block of seeds goes to the
blocks of items it stands on, is multiplied there with those rows of the graph alone, and the
products come back through a second shuffle to be summed and pruned. Sums are of integers, so
the result is that of `jobs/propagation.py` to the bit. Every iteration is checkpointed, so that
lineage does not grow.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pyspark import RDD, StorageLevel

from jobs.propagation import Block, Trace
from jobs.shared_rows import Rows, SharedRows
from jobs.spreading import UNIT, add, scratch, settle, spread
from schemas.settings import SoftTargetsSettings


@dataclass(frozen=True)
class State:
    """A block of N seeds between two iterations; `last` tells what the last one did."""

    seeds: NDArray[np.int32]
    block: Block
    is_active: NDArray[np.bool_]
    last: "Step | None" = None

    @classmethod
    def of_seeds(cls, seeds: NDArray[np.int32], settings: SoftTargetsSettings) -> "State":
        """Y_0."""
        return cls(seeds, Block.of_seeds(seeds, settings.top_k), np.ones(len(seeds), bool))


@dataclass(frozen=True)
class Step:
    """One iteration of a block, as in `Trace`, and what is still active."""

    residual: float
    active: int
    held: int
    dropped: float
    still_active: int


def propagate_blocked(
    states: RDD,
    num_blocks: int,
    graph: SharedRows,
    bounds: NDArray[np.int64],
    settings: SoftTargetsSettings,
) -> tuple[RDD, Trace]:
    """Propagates all blocks of seeds to convergence.

    Args:
        states: (number, `State`), numbers without a gap; its context has a checkpoint folder.
        num_blocks: Blocks of seeds.
        graph: S.
        bounds: Block b holds items [bounds[b], bounds[b + 1]).
        settings: α, tolerance, max_iterations and top_k.

    Returns:
        The last states, and the trace of all.
    """
    steps: list[Step] = []
    while not steps or (steps[-1].still_active and len(steps) < settings.max_iterations):
        mass = states.flatMap(partial(_mass_of_state, bounds=bounds, alpha=settings.alpha))
        arrived = states.union(multiply(mass, graph, bounds)).groupByKey(num_blocks, int)
        after = arrived.mapValues(partial(_iterate, settings=settings, width=int(bounds[-1])))
        after.persist(StorageLevel.DISK_ONLY).checkpoint()
        steps.append(_join(after.values().map(_last).collect()))
        forget(states)
        states = after
    trace = Trace(
        residual=np.array([step.residual for step in steps]),
        active=np.array([step.active for step in steps]),
        held=np.array([step.held for step in steps]),
        dropped=np.array([step.dropped for step in steps]),
        num_unconverged=steps[-1].still_active,
    )
    return states, trace


def forget(states: RDD) -> None:
    """Deletes what is kept of states that are written, or replaced by the next ones."""
    states.unpersist()
    if file := states.getCheckpointFile():
        shutil.rmtree(file.removeprefix("file:"), ignore_errors=True)


def multiply(mass: RDD, matrix: SharedRows, bounds: NDArray[np.int64]) -> RDD:
    """Products of pieces of mass with the rows of their block of items.

    Args:
        mass: (block of items, (block of seeds, rows of mass in units)).
        matrix: S or P.
        bounds: Block b holds items [bounds[b], bounds[b + 1]).

    Returns:
        (block of seeds, rows of mass in whole units).
    """
    by_items = mass.partitionBy(len(bounds) - 1, partitionFunc=int)
    return by_items.mapPartitions(partial(_multiply_pieces, matrix=matrix, bounds=bounds))


def sum_products(products: Iterable[Rows], num_rows: int, top_k: int, width: int) -> Block:
    """Rows from all products with their mass, pruned to `top_k`."""
    block, pieces = Block.empty(num_rows, top_k), list(products)
    _settle_products(np.arange(num_rows), np.zeros(0, np.int32), pieces, block, 1.0, width)
    return block


def cut(
    ends: NDArray[np.int64],
    items: NDArray[np.int32],
    mass: NDArray[np.float64],
    bounds: NDArray[np.int64],
) -> Iterator[tuple[int, Rows]]:
    """Rows of mass on items, cut by blocks of items; blocks without any are left out."""
    row = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    block = np.searchsorted(bounds, items, side="right") - 1
    for number in np.unique(block):
        is_here = block == number
        counts = np.bincount(row[is_here], minlength=len(ends) - 1)
        yield int(number), (np.concatenate([[0], np.cumsum(counts)]), items[is_here], mass[is_here])


def _mass_of_state(
    numbered: tuple[int, State], bounds: NDArray[np.int64], alpha: float
) -> Iterator[tuple[int, tuple[int, Rows]]]:
    number, state = numbered
    rows = np.flatnonzero(state.is_active)
    lengths = state.block.lengths[rows]
    is_used = np.arange(state.block.columns.shape[1]) < lengths[:, None]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    items, units = state.block.columns[rows][is_used], state.block.units[rows][is_used]
    for block, piece in cut(ends, items, (alpha * units).astype(np.float64), bounds):
        yield block, (number, piece)


def _multiply_pieces(
    pieces: Iterable[tuple[int, tuple[int, Rows]]], matrix: SharedRows, bounds: NDArray[np.int64]
) -> Iterator[tuple[int, Rows]]:
    ends, columns, values = matrix.open()
    width = len(ends) - 1
    for block, (number, mass) in pieces:
        first, end = map(int, bounds[block : block + 2])
        yield number, _multiply(mass, first, ends[first : end + 1], columns, values, width)


def _iterate(arrived: Iterable[State | Rows], settings: SoftTargetsSettings, width: int) -> State:
    """One iteration of a block, from its state and the products that came back."""
    products: list[Rows] = []
    for one in arrived:
        if isinstance(one, State):
            state = one
        else:
            products.append(one)
    rows, block = np.flatnonzero(state.is_active), state.block
    _settle_products(rows, state.seeds, products, block, settings.alpha, width)
    is_active = state.is_active & (block.change >= settings.tolerance)
    step = Step(
        residual=float(block.change[rows].max(initial=0)),
        active=len(rows),
        held=int(block.is_held[rows].sum()),
        dropped=float(block.dropped().sum()),
        still_active=int(is_active.sum()),
    )
    return replace(state, is_active=is_active, last=step)


def _last(state: State) -> Step | None:
    return state.last


def _join(steps: Sequence[Step]) -> Step:
    totals = {
        name: sum(getattr(step, name) for step in steps) for name in Step.__dataclass_fields__
    }
    return Step(**totals | {"residual": max(step.residual for step in steps)})


def _settle_products(
    rows: NDArray[np.int64],
    seeds: NDArray[np.int32],
    products: Sequence[Rows],
    block: Block,
    alpha: float,
    width: int,
) -> None:
    """Sums R products row by row and makes the sums entries of these rows of a block."""
    sizes = np.array([len(columns) for _, columns, _ in products], np.int64)
    starts = np.cumsum(sizes) - sizes
    ends = np.zeros((len(products), len(rows) + 1), np.int64)
    for number, (piece_ends, _, _) in enumerate(products):
        ends[number] = piece_ends + starts[number]
    columns, units = (
        np.concatenate([np.zeros(0, kind), *(product[part] for product in products)])
        for part, kind in ((1, np.int32), (2, np.int64))
    )
    _settle_all(rows, seeds, ends, columns, units, block.state(), alpha, width)


@njit(cache=True)
def _settle_all(rows, seeds, ends, columns, units, block, alpha, width):  # type: ignore[no-untyped-def]
    found, touched, before, heap = scratch(width, block[0].shape[1])
    kept = np.array([np.int64((1 - alpha) * UNIT)])
    for number, row in enumerate(rows):
        seed, num_touched = 0, 0
        if len(seeds):
            seed = seeds[row]
            num_touched = add(seeds[row : row + 1], kept, found, touched, 0)
        for piece in range(len(ends)):
            start, end = ends[piece, number], ends[piece, number + 1]
            num_touched = add(columns[start:end], units[start:end], found, touched, num_touched)
        settle(row, seed, block, found, touched, num_touched, before, heap, alpha)


@njit(cache=True)
def _multiply(mass, first, ends, neighbours, values, width):  # type: ignore[no-untyped-def]
    """Rows of mass on items times those items' rows, which begin at item `first`."""
    mass_ends, items, units = mass
    most = 0
    for row in range(len(mass_ends) - 1):
        size = 0
        for at in range(mass_ends[row], mass_ends[row + 1]):
            size += ends[items[at] - first + 1] - ends[items[at] - first]
        most += min(size, width)
    columns, sums = np.empty(most, np.int32), np.empty(most, np.int64)
    product_ends = np.zeros(len(mass_ends), np.int64)
    found, touched, _, _ = scratch(width, 1)
    for row in range(len(mass_ends) - 1):
        start, end = mass_ends[row], mass_ends[row + 1]
        num_touched = spread(
            items[start:end], units[start:end], 1.0, first, ends, neighbours, values,
            found, touched, 0,
        )  # fmt: skip
        start = product_ends[row]
        for at in range(num_touched):
            columns[start + at], sums[start + at] = touched[at], found[touched[at]]
            found[touched[at]] = 0
        product_ends[row + 1] = start + num_touched
    return product_ends, columns[: product_ends[-1]], sums[: product_ends[-1]]
