"""Graph rivals: what anyone would use instead of the graph and propagation, as programs.

    python -m benchmarks.graph_rivals scipy_counts --root var/bench/5000000

Prints the seconds the work took, reading its inputs included; imports and the start of Spark
are not. Settings are those of the stages. No rival writes or verifies anything: what they made
stays in memory.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from implicit.nearest_neighbours import CosineRecommender
from numpy.typing import NDArray
from scipy import sparse

from benchmarks import spark_rivals
from benchmarks.generated_events import DS
from benchmarks.scipy_propagation import propagate_all
from jobs.spark import session
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import Partition, get
from schemas.sequences import SEQUENCES
from schemas.settings import ItemGraphSettings, Settings, load
from schemas.soft_targets import SOFT_TARGETS


def training_actions(sequences: Partition) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """User number and item of all training actions, user after user, oldest first."""
    names = ["item_indices", "num_train"]
    table = pa.concat_tables([pq.ParquetFile(f).read(columns=names) for f in sequences.files])
    lengths = pc.list_value_length(table["item_indices"]).to_numpy()
    items = table["item_indices"].combine_chunks().flatten().to_numpy()
    user = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(items)) - (np.cumsum(lengths) - lengths)[user]
    is_train = position < table["num_train"].to_numpy()[user]
    return user[is_train], items[is_train]


def count_pairs(
    sequences: Partition, num_items: int, settings: ItemGraphSettings
) -> sparse.csr_array:
    """Σ_d γ^(d-1) X_pᵀ X_{p+d}, the product written as coordinates that scipy sums up.

    On 5 million interactions this took 6 s, one product Xᵀ(DX) 12 s, a sum of products 21 s.

    Returns:
        [V + 1, V + 1], the upper triangle: an unordered pair once; without time decay and
        user damping.
    """
    user, item = training_actions(sequences)
    shape = (num_items + 1, num_items + 1)
    total = sparse.csr_array(shape)
    for distance in range(1, min(settings.window, len(item) - 1) + 1):
        left, right = item[:-distance], item[distance:]
        is_pair = (user[:-distance] == user[distance:]) & (left != right)
        left, right = left[is_pair], right[is_pair]
        weight = np.full(len(left), settings.position_decay ** (distance - 1))
        ends = np.minimum(left, right), np.maximum(left, right)
        total = total + sparse.coo_array((weight, ends), shape=shape).tocsr()
    return total


def implicit_cosine(
    sequences: Partition, num_items: int, top_k: int, num_threads: int
) -> sparse.csr_matrix:
    """Cosine between items over whole histories by `implicit`, [V + 1, V + 1], itself included."""
    user, item = training_actions(sequences)
    shape = (sequences.manifest.rows, num_items + 1)
    actions = sparse.csr_matrix((np.ones(len(item)), (user, item)), shape=shape)
    model = CosineRecommender(K=top_k, num_threads=num_threads)
    model.fit(actions, show_progress=False)
    return model.similarity


def prepare(name: str, root: Path, settings: Settings) -> Callable[[], Any]:
    """Everything a rival needs before its time starts; returns its work."""
    items = get(root, ITEMS, DS)
    num_items = items.manifest.rows
    if name in ("spark_propagation", "scipy_propagation"):
        graph = get(root, ITEM_GRAPH, DS)
        if name == "scipy_propagation":
            return partial(propagate_all, graph.files, num_items, settings.soft_targets)
        num_iterations = len(get(root, SOFT_TARGETS, DS).manifest.notes["iterations"])
        spark, chosen = session(name, settings.spark), settings.soft_targets
        return lambda: spark_rivals.propagate(spark, graph, items, chosen, num_iterations)
    sequences = get(root, SEQUENCES, DS)
    if name == "spark_join":
        spark = session(name, settings.spark)
        return lambda: (
            spark_rivals.count_pairs(spark, sequences, settings.item_graph)
            .write.format("noop")
            .mode("overwrite")
            .save()
        )
    if name == "scipy_counts":
        return partial(count_pairs, sequences, num_items, settings.item_graph)
    threads = os.cpu_count() or 1
    return partial(implicit_cosine, sequences, num_items, settings.item_graph.top_k, threads)


RIVALS = ("spark_join", "scipy_counts", "implicit", "spark_propagation", "scipy_propagation")


def main(arguments: Sequence[str]) -> None:
    """Runs one rival once and prints its seconds."""
    parser = argparse.ArgumentParser("python -m benchmarks.graph_rivals", description=__doc__)
    parser.add_argument("rival", choices=RIVALS)
    parser.add_argument("--root", type=Path, required=True)
    options = parser.parse_args(arguments)
    work = prepare(options.rival, options.root, load(None))
    started = time.monotonic()
    work()
    print(time.monotonic() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
