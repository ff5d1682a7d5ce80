"""Sheets: a model's scorecards of one night, found by the names that people give models.

A name is `2017-10-31:candidate` (scorecards), `version:3` (the registry) or the MLflow id of a
training run. Versions and runs stand for their weights, on whatever night these were scored, also
where that night was evaluated anew since.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from mlflow.exceptions import MlflowException

from schemas.checkpoints import CHECKPOINTS
from schemas.command_line import parse_date
from schemas.errors import CorruptPartitionError, DataError, MissingInputError, UsageError
from schemas.partitions import Partition, find, get, published_dates, replaced
from schemas.scorecards import SCORECARDS
from trainer.registry import ABSENT, Registry

NAMES = "2017-10-31:candidate, version:3 or an MLflow run id"


@dataclass(frozen=True)
class Sheet:
    """All scorecards of one model on one night."""

    partition: Partition
    model: str
    model_digest: str
    holdout_digest: str

    @property
    def name(self) -> str:
        """Such as 2017-10-31:candidate."""
        return f"{self.partition.manifest.ds}:{self.model}"

    def cards(self) -> dict[tuple[bool, str], dict[str, Any]]:
        """Rows by `exclude_seen` and metric, `user_values` as float32 arrays."""
        table = self.partition.read()
        table = table.filter(pc.equal(table["model"], self.model))
        facts = table.drop_columns("user_values").to_pylist()
        values = [scalar.values.to_numpy() for scalar in table["user_values"]]
        return {
            (row["exclude_seen"], row["metric"]): row | {"user_values": of_users}
            for row, of_users in zip(facts, values, strict=True)
        }


def sheets_of(name: str, registry: Registry) -> list[Sheet]:
    """What a name on the command line may mean, newest night first.

    Raises:
        UsageError: It names nothing, or there is no registry to look it up in.
        MissingInputError: It names a model that was not scored.
        RegistryError: There is no such version.
    """
    root = registry.root
    if named := re.fullmatch(r"(\d{4}-\d{2}-\d{2}):(\w+)", name):
        sheets = list(_sheets(get(root, SCORECARDS, parse_date("the night", named[1]))))
        found = [sheet for sheet in sheets if sheet.model == named[2]]
        expected = "one of " + ", ".join(sheet.model for sheet in sheets)
    else:
        weights, sheets, damaged = _weights(name, registry), list[Sheet](), list[str]()
        for ds in reversed(published_dates(root, SCORECARDS)):
            try:  # a night that nobody asked for may be damaged
                sheets += [sheet for scored in _runs(root, ds) for sheet in _sheets(scored)]
            except CorruptPartitionError:
                damaged.append(ds.isoformat())
        found = [sheet for sheet in sheets if sheet.model_digest == weights]
        expected = f"those of its weights {weights[:12]}"
        expected += f" (damaged and not looked at: {', '.join(damaged)})" if damaged else ""
    if not found:
        fix = "run python -m trainer.evaluation for its night, or name another model"
        raise MissingInputError(f"no scorecards of {name}", expected, fix)
    return found


def pair_of(sheets_a: Sequence[Sheet], sheets_b: Sequence[Sheet]) -> tuple[Sheet, Sheet]:
    """The newest scorecards of both models that are of one holdout.

    Raises:
        DataError: There are none.
    """
    for a, b in product(sheets_a, sheets_b):
        if a.holdout_digest == b.holdout_digest:
            return a, b
    a, b = sheets_a[0], sheets_b[0]
    raise DataError(
        f"{a.name} on holdout {a.holdout_digest[:12]}, {b.name} on {b.holdout_digest[:12]}",
        "both models on one holdout",
        "name two models of one night, whose evaluation scores its candidate beside the champion; "
        "several trainings of a night, each evaluated, are of one holdout, too",
    )


def _runs(root: Path, ds: date) -> Iterator[Partition]:
    """All scorecards of a night, those of replaced runs after the current ones."""
    yield get(root, SCORECARDS, ds)
    yield from replaced(root, SCORECARDS, ds)


def _sheets(partition: Partition) -> Iterator[Sheet]:
    columns = ("model", "model_digest", "holdout_digest")
    rows = partition.read(columns).to_pylist()
    for facts in dict.fromkeys(tuple(row[name] for name in columns) for row in rows):
        yield Sheet(partition, *facts)


def _weights(name: str, registry: Registry) -> str:
    """sha256 of the weights of a version or of a training run."""
    if not registry.is_there:  # which asking it would make
        raise UsageError(f"no registry under {registry.root}", "that of the model", "--root")
    if version := re.fullmatch(r"version:(\d+)", name):
        return registry.get(int(version[1])).weights_sha256
    try:
        ds = registry.client.get_run(name).data.tags["penumbra.ds"]
    except (MlflowException, KeyError) as error:
        if isinstance(error, MlflowException) and error.error_code not in ABSENT:
            raise
        raise UsageError(f"{name}, not a training run in MLflow", NAMES, "the name") from error
    night = parse_date("the night", ds)
    current = find(registry.root, CHECKPOINTS, night)
    for checkpoint in [*filter(None, [current]), *replaced(registry.root, CHECKPOINTS, night)]:
        if checkpoint.manifest.notes.get("mlflow_run_id") == name:
            return checkpoint.read(["weights_sha256"])["weights_sha256"][0].as_py()
    same_run = f"name = '{registry.name}' and run_id = '{name}'"
    for version in registry.client.search_model_versions(same_run):
        return registry.get(int(version.version)).weights_sha256
    raise MissingInputError(
        f"run {name} of {ds} without weights", "a checkpoint or a version of it", "another run"
    )
