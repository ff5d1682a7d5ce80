"""Streaming: what memory the data of training takes, against the number of users.

    python -m benchmarks.streaming --users 100000 400000

Publishes sequences and soft targets of so many users over one catalogue (kept under the root),
then makes the training windows of each in a process of its own and goes through an epoch of
batches, without a model. Peaks are of anonymous memory (resident, without pages of files, which
the kernel drops where there is no room).
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.generated_events import DS, raw_ids
from schemas.contract import Contract
from schemas.items import ITEMS
from schemas.partitions import Partition, find, get
from schemas.publishing import draft, new_token, publish
from schemas.sequences import SEQUENCES
from schemas.settings import TrainingSettings
from schemas.soft_targets import SOFT_TARGETS
from trainer.batches import TrainingWindows
from trainer.sequences import Sequences
from trainer.soft_targets import from_batches

NUM_ITEMS, ACTIONS, ENTRIES = 10_000, 50, 50
"""The catalogue, each user's actions, and entries of each soft target."""
USERS_PER_GROUP = 10_000
SECONDS_BETWEEN_SAMPLES = 0.02
SETTINGS = TrainingSettings(loss="decoupled", beta=0.5, targets="all", max_length=50)
START_MS, DAY_MS = 1_504_224_000_000, 86_400_000


def sequences_of(num_users: int) -> Iterator[pa.Table]:
    """Rows of SEQUENCES, a group of users at a time: random items, an action a day."""
    for first in range(0, num_users, USERS_PER_GROUP):
        num = min(USERS_PER_GROUP, num_users - first)
        random = np.random.default_rng([1, first])
        items = random.integers(1, NUM_ITEMS + 1, num * ACTIONS).astype(np.int32)
        times = np.tile(START_MS + DAY_MS * np.arange(ACTIONS), num)
        of_lists = SEQUENCES.schema.field("event_times").type.value_type
        ends = pa.array(np.arange(num + 1, dtype=np.int32) * ACTIONS)
        ones = pa.array(np.ones(num, np.int32))
        columns = [
            raw_ids("u", np.arange(first, first + num)),
            pa.ListArray.from_arrays(ends, pa.array(items)),
            pa.ListArray.from_arrays(
                ends, pa.array(times).cast(pa.timestamp("ms", "UTC")).cast(of_lists)
            ),
            pa.array(np.full(num, ACTIONS - 2, np.int32)),
            ones,
            ones,
        ]
        yield pa.table(columns, schema=SEQUENCES.schema)


def soft_targets_of(num_users: int) -> Iterator[pa.Table]:
    """Rows of SOFT_TARGETS: items, then a group of users at a time; equal masses."""
    for kind, num_seeds in (("item", NUM_ITEMS), ("user", num_users)):
        for first in range(0, num_seeds, USERS_PER_GROUP):
            num = min(USERS_PER_GROUP, num_seeds - first)
            steps = np.random.default_rng([2, first]).integers(
                1, NUM_ITEMS // ENTRIES + 1, (num, ENTRIES)
            )
            ends = pa.array(np.arange(num + 1, dtype=np.int32) * ENTRIES)
            items = pa.array(np.cumsum(steps, 1).ravel().astype(np.int32))
            masses = pa.array(np.full(num * ENTRIES, 1 / ENTRIES, np.float32))
            columns = {
                "kind": pa.array([kind] * num),
                "seed_id": raw_ids(kind[0], np.arange(first, first + num)),
                "item_indices": pa.ListArray.from_arrays(ends, items),
                "masses": pa.ListArray.from_arrays(ends, masses),
                "dropped_mass": pa.array(np.zeros(num)),
            }
            chosen = [columns[name] for name in SOFT_TARGETS.schema.names]
            yield pa.table(chosen, names=SOFT_TARGETS.schema.names).cast(SOFT_TARGETS.schema)


def items_table() -> Iterator[pa.Table]:
    """The rows of ITEMS."""
    index = np.arange(1, NUM_ITEMS + 1, dtype=np.int32)
    times = pa.array(np.full(NUM_ITEMS, START_MS)).cast(pa.timestamp("ms", "UTC"))
    columns = [index, raw_ids("i", index - 1), np.full(NUM_ITEMS, 9), times, times]
    arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns]
    yield pa.table(arrays, names=ITEMS.schema.names).cast(ITEMS.schema)


def published(root: Path, contract: Contract, groups: Iterator[pa.Table]) -> Partition:
    """A table's partition of `DS`, written unless it is there already."""
    if partition := find(root, contract, DS):
        return partition
    run = draft(root, contract, DS, new_token())
    with pq.ParquetWriter(run.path / "part-00000.parquet", contract.schema) as writer:
        for group in groups:
            writer.write_table(group)
    return publish(run, DS)


def go_through(root: Path) -> int:
    """Makes windows and an epoch of batches as training does; how many examples there were."""
    sequences = Sequences(get(root, SEQUENCES, DS))
    items = get(root, ITEMS, DS).read(("item_index", "item_id"))
    rows, ids = get(root, SOFT_TARGETS, DS).batches(), sequences.user_ids()
    soft_targets = from_batches(rows, items, ids, SETTINGS, root)
    windows = TrainingWindows(sequences.actions(), soft_targets, SETTINGS, root)
    return sum(len(batch.positions_N) for batch in windows.epoch(1))


def measure(root: Path, num_users: int) -> tuple[int, int]:
    """Peak of anonymous memory in bytes and examples of an epoch, in a process of its own."""
    published(root, SEQUENCES, sequences_of(num_users))
    published(root, SOFT_TARGETS, soft_targets_of(num_users))
    published(root, ITEMS, items_table())
    command = [sys.executable, "-m", "benchmarks.streaming", "--child", str(root)]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            memory = watched.memory_info()
            peak = max(peak, memory.rss - memory.shared)
            try:
                process.wait(SECONDS_BETWEEN_SAMPLES)
            except subprocess.TimeoutExpired:
                continue
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak, int(output)


def main(arguments: Sequence[str]) -> None:
    """Prints a line per number of users, and what a user more takes."""
    parser = argparse.ArgumentParser("python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--users", nargs="+", type=int, default=[100_000, 200_000, 400_000])
    parser.add_argument("--root", type=Path, default=Path("var/bench/streaming"))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(go_through(options.child))
        return
    peaks = {}
    for num_users in options.users:
        peak, num_examples = measure(options.root.resolve() / str(num_users), num_users)
        peaks[num_users] = peak
        print(f"{num_users:,} users: {peak / 1e6:,.0f} MB, {num_examples:,} examples", flush=True)
    least, most = min(peaks), max(peaks)
    if least < most:
        growth = (peaks[most] - peaks[least]) / (most - least)
        print(f"{growth:.0f} bytes more per user")


if __name__ == "__main__":
    main(sys.argv[1:])
