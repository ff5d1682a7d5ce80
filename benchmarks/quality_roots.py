"""Quality roots: the folders a data set's tables live in, made by the real stages.

    <root>/beauty/settings.toml        for all stages
    <root>/beauty/night/               events, interactions, items, sequences with the holdout
    <root>/beauty/sealed/              the same items, sequences without the holdout
    <root>/beauty/graphs/<digest>/     sealed, and an item graph of certain settings
    <root>/beauty/soft/<digest>/       that, and soft targets of certain settings

Graphs, soft targets, training and validation see the sealed sequences only: whatever a search
does, there is no holdout where it looks. What is there already is not made again.
"""

import json
import os
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.discovery import run_stage
from benchmarks.quality_data import DataSet, write_events, write_settings
from benchmarks.quality_space import METHOD, changed, first_choices
from schemas.contract import Contract
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import Input, find, get
from schemas.publishing import draft, new_token, publish
from schemas.sequences import SEQUENCES
from schemas.settings import Settings
from schemas.soft_targets import SOFT_TARGETS
from trainer.histories import Histories, whole

NIGHT_STAGES = ("jobs.interactions", "jobs.items", "jobs.sequences")
DIGEST_LENGTH = 12

RunStage = Callable[[str, date, Path, Mapping[str, str], Path], None]
"""(module, date, root, changed settings, settings file): runs one stage to its end."""


def prepare(data: DataSet, root: Path, source: Path, run: RunStage = run_stage) -> None:
    """Makes what a search starts from: tables, sealed sequences, soft targets of the first trial.

    Args:
        data: The data set.
        root: Of all data sets.
        source: The folder with its file.
        run: Runs a stage.

    Raises:
        PenumbraError: The file is missing or not as expected.
        CalledProcessError: A stage failed.
    """
    settings_file, night = write_settings(data, root), data.home(root) / "night"
    num_events = write_events(data, root, source)
    for module in NIGHT_STAGES:
        run(module, data.ds, night, {}, settings_file)
    seal(data, root)
    soft_root(
        data, root, changed(data.load_settings(root), first_choices(data.loss_choices(METHOD))), run
    )
    items, sequences = (get(night, contract, data.ds).manifest for contract in (ITEMS, SEQUENCES))
    print(
        f"{data.name}: {num_events:,} events, {items.rows:,} items, {sequences.rows:,} users",
        flush=True,
    )


def seal(data: DataSet, root: Path) -> None:
    """Publishes the sequences without holdout, and links the items beside them."""
    night, sealed = (data.home(root) / name for name in ("night", "sealed"))
    whole_night = get(night, SEQUENCES, data.ds)
    _link(night, sealed, ITEMS)
    if _is_made_from(sealed, SEQUENCES, data.ds, whole_night.as_input()):
        return
    run = draft(sealed, SEQUENCES, data.ds, new_token())
    run.write(without_holdout(whole_night.read()))
    publish(run, data.ds, inputs=[whole_night.as_input()])


def without_holdout(sequences: pa.Table) -> pa.Table:
    """Rows of the sequences table, each without its last `num_holdout` positions."""
    everything = whole(sequences)
    stops = everything.stops - sequences["num_holdout"].to_numpy()
    kept = Histories(np.arange(len(everything.items)), everything.starts, stops)
    places = pa.array(kept.positions()[1])
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept.lengths)]), pa.int32())
    columns = {name: sequences[name] for name in SEQUENCES.columns}
    for name in ("item_indices", "event_times"):
        values = sequences[name].combine_chunks().values.take(places)
        columns[name] = pa.ListArray.from_arrays(offsets, values)
    columns["num_holdout"] = pa.array(np.zeros(sequences.num_rows, np.int32))
    return pa.table(columns)


def soft_root(data: DataSet, root: Path, settings: Settings, run: RunStage = run_stage) -> Path:
    """A root with sealed sequences and the soft targets of these settings, made where missing.

    Args:
        data: A data set that is prepared.
        root: Of all data sets.
        settings: Whose sections `item_graph` and `soft_targets` count.
        run: Runs a stage.
    """
    home, sealed = data.home(root), data.home(root) / "sealed"
    graph = home / "graphs" / _digest(settings, "item_graph")
    soft = home / "soft" / _digest(settings, "item_graph", "soft_targets")
    read = get(sealed, SEQUENCES, data.ds).as_input()
    if _is_made_from(soft, SOFT_TARGETS, data.ds, read):
        return soft
    changes = as_variables(settings, "item_graph", "soft_targets")
    for contract in (ITEMS, SEQUENCES):
        _link(sealed, graph, contract)
        _link(sealed, soft, contract)
    if not _is_made_from(graph, ITEM_GRAPH, data.ds, read):
        run(ITEM_GRAPH.stage, data.ds, graph, changes, data.settings_file(root))
    _link(graph, soft, ITEM_GRAPH)
    run(SOFT_TARGETS.stage, data.ds, soft, changes, data.settings_file(root))
    return soft


def as_variables(settings: Settings, *sections: str) -> dict[str, str]:
    """Whole sections as environment variables without their prefix, values as TOML."""
    values: dict[str, dict[str, Any]] = settings.model_dump(include=set(sections))
    return {
        f"{section}__{key}".upper(): json.dumps(value)
        for section, keys in values.items()
        for key, value in keys.items()
    }


def _digest(settings: Settings, *sections: str) -> str:
    return settings.digest(sections)[:DIGEST_LENGTH]


def _is_made_from(root: Path, contract: Contract, ds: date, line: Input) -> bool:
    """Whether a table is there and its lineage has these contents of another."""
    partition = find(root, contract, ds)
    if partition is None:
        return False
    digests = {(one["table"], one["digest"]) for one in partition.manifest.inputs}
    return (line.table, line.digest) in digests


def _link(source: Path, target: Path, contract: Contract) -> None:
    """Shows a table of one root under another; relative, so that the whole may be moved."""
    link = target / "tables" / contract.table
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(source / "tables" / contract.table, link.parent))
