"""Edges: from the positions of all users to one range of items' part of the item graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.normalisers import NORMALISERS, ItemWeights, shrink
from jobs.pair_counts import Counts, count_pairs
from jobs.parts import write_part
from jobs.positions import Histories
from jobs.top_k import top_k_of_rows
from schemas.item_graph import ITEM_GRAPH
from schemas.settings import ItemGraphSettings

ROUNDING = 1e-6
"""Relative slack when a weight is compared with a limit."""


@dataclass(frozen=True)
class Pruning:
    """How counts, in units of 2^-bits, become edges."""

    settings: ItemGraphSettings
    weights: ItemWeights
    bits: int


def write_bucket(
    number: int, first: int, end: int, histories: Histories, pruning: Pruning, staging: Path
) -> dict[str, int]:
    """Counts, weighs and prunes the items [first, end), writes part `number`, and reports."""
    items, strengths = histories.open()
    num_items, settings = histories.num_items, histories.settings
    counted = count_pairs(items, strengths, first, end, num_items, settings, pruning.bits)
    batches = [(edges(counts, pruning), len(counts.units)) for counts in counted]
    columns = {
        name: np.concatenate([batch[name] for batch, _ in batches]) for name in ITEM_GRAPH.columns
    }
    write_part(staging, "edges", number, ITEM_GRAPH, columns)
    degrees = np.bincount(columns["item_index"] - first)
    return {
        "pairs_of_items": sum(num_counts for _, num_counts in batches),
        "edges": int(degrees.sum()),
        "items_with_edges": int(np.count_nonzero(degrees)),
        "max_degree": int(degrees.max(initial=0)),
    }


def edges(counts: Counts, pruning: Pruning) -> dict[str, NDArray[Any]]:
    """The columns of ITEM_GRAPH, in key order, of E kept edges.

    `min_pair_weight` is tested before the normaliser, `shrinkage` applied after it; of equal
    weights the smaller neighbour stays.
    """
    settings = pruning.settings
    pair_weight = counts.units.astype(np.float64) * 2.0**-pruning.bits
    rows = np.arange(counts.first, counts.first + len(counts.ends) - 1, dtype=np.int32)
    item = np.repeat(rows, np.diff(counts.ends))
    weight = NORMALISERS[settings.normaliser](pair_weight, item, counts.neighbours, pruning.weights)
    if settings.shrinkage:
        weight = shrink(pair_weight, weight, settings.shrinkage)
    if settings.min_pair_weight:
        # Sums of whole units: a pair of just that weight may be a little below it.
        least = settings.min_pair_weight * (1 - ROUNDING) - 2.0**-pruning.bits
        weight = np.where(pair_weight >= least, weight, 0.0)
    kept, _ = top_k_of_rows(counts.ends, counts.neighbours, weight, settings.top_k)
    return {
        "item_index": item[kept],
        "neighbour_index": counts.neighbours[kept],
        "pair_weight": pair_weight[kept],
        "weight": weight[kept],
    }
