"""Recount: what a night could save by keeping yesterday's pair counts.

    python -m benchmarks.recount [--size 20] [--root var/bench]

Makes the graph of generated events with the kernels of the stage, one phase after the other on one
core, and prints the seconds of each. Kept counts could replace positions and counting only: each
new day changes the weight of nearly every edge, so weighing, pruning, writing and auditing remain.
Keeping them has a price, which is timed beside: they are written, read and added to.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.generated_events import DS, World, generate
from jobs.edges import Pruning, edges
from jobs.item_graph import item_weights, measure
from jobs.pair_counts import count_pairs, fraction_bits
from jobs.parts import write_part
from jobs.positions import Histories
from schemas.audit import audit
from schemas.item_graph import ITEM_GRAPH
from schemas.settings import ItemGraphSettings

REPLACEABLE = ("positions", "count")
"""Phases that kept counts would replace."""
PRICE = ("write counts", "read and add counts")
"""Phases that keeping counts would add."""


class Phases:
    """Seconds by phase, summed over its parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Adds the seconds of the block to a phase."""
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

    def table(self) -> Table:
        """Seconds of each phase and of the whole recount, and the least a night would cost."""
        found = Table("phase", "seconds", title="One core")
        for phase, seconds in self.seconds.items():
            found.add_row(phase, f"{seconds:.1f}")
        whole = sum(s for phase, s in self.seconds.items() if phase not in PRICE)
        rest = whole - sum(self.seconds[phase] for phase in REPLACEABLE)
        found.add_row("full recount", f"{whole:.1f}")
        found.add_row("what no kept count saves", f"{rest:.1f} ({rest / whole:.2f}×)")
        price = sum(self.seconds[phase] for phase in PRICE)
        found.add_row("with the price of keeping them", f"{rest + price:.1f}")
        return found


def recount(root: Path, num_interactions: int) -> Phases:
    """Makes the graph of generated events once, and keeps its counts once."""
    phases, settings = Phases(), ItemGraphSettings()
    items, sequences = generate(root, World(num_interactions))
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name)
        histories = Histories(folder, items.manifest.rows, settings, DS)
        with phases.time("positions"):
            slices, size, share = measure(sequences, settings)
            histories.create(size["training_positions"] + size["users"] + 1)
            for part in slices:
                histories.write(part)
            _, weights = item_weights(histories, len(slices), size["users"])
        bits = fraction_bits(size["position_pairs"])
        pruning = Pruning(settings, weights._replace(share=share), bits)
        _count_and_prune(phases, histories, pruning, folder)
        with phases.time("audit"):
            audit(ITEM_GRAPH, sorted(folder.glob("part-*")))
    return phases


def _count_and_prune(phases: Phases, histories: Histories, pruning: Pruning, folder: Path) -> None:
    kept, end = [], histories.num_items + 1
    counted = count_pairs(
        *histories.open(), 1, end, histories.num_items, pruning.settings, pruning.bits
    )
    with (folder / "counts").open("wb") as file:
        while True:
            with phases.time("count"):
                counts = next(counted, None)
            if counts is None:
                break
            with phases.time("weigh and prune"):
                kept.append(edges(counts, pruning))
            with phases.time("write counts"):
                file.write(counts.neighbours.data)
                file.write(counts.units.data)
    with phases.time("read and add counts"):
        state = np.fromfile(folder / "counts", np.int32)
        np.add(state, 1, out=state)
    with phases.time("write edges"):
        columns = {n: np.concatenate([part[n] for part in kept]) for n in ITEM_GRAPH.columns}
        write_part(folder, "edges", 0, ITEM_GRAPH, columns)


def main(arguments: Sequence[str]) -> None:
    """Prints the seconds of every phase; the first, small run compiles."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recount", description=__doc__)
    parser.add_argument("--size", type=float, default=20, help="millions of interactions")
    parser.add_argument("--root", type=Path, default=Path("var/bench"))
    options = parser.parse_args(arguments)
    recount(options.root / "10000", 10_000)
    num_interactions = round(options.size * 1e6)
    Console().print(recount(options.root / str(num_interactions), num_interactions).table())


if __name__ == "__main__":
    main(sys.argv[1:])
