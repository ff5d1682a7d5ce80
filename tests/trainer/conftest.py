"""Fixtures of the trainer's tests: tiny models as published nights, and an empty registry."""

import itertools
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from safetensors.torch import save_file

from schemas.audit import file_sha256
from schemas.checkpoints import CHECKPOINTS, WEIGHTS_FILE
from schemas.command import Night
from schemas.items import ITEMS
from schemas.partitions import Input, Partition, find
from schemas.publishing import draft, new_token, publish
from schemas.scorecards import SCORECARDS
from schemas.sequences import SEQUENCES
from schemas.settings import Settings, SplitSettings, TrainingSettings

DS = date(2017, 10, 31)
TIME = datetime(2017, 10, 1, tzinfo=UTC)
COVERAGE = {"metric": "coverage@10", "value": 0.4, "user_values": []}
TINY = TrainingSettings(width=8, num_blocks=1, num_heads=2, max_length=6, dropout=0.0)

PublishModel = Callable[..., Partition]
PublishScorecards = Callable[..., Partition]


@pytest.fixture
def publish_items(publish_rows: Callable[..., Partition]) -> Callable[..., Partition]:
    """Publishes a catalogue of literal item ids; support falls from the first to the last."""

    def publish_items(item_ids: list[str], ds: date = DS) -> Partition:
        rows = [
            {
                "item_index": index,
                "item_id": item_id,
                "support": 100 - index,
                "first_seen": TIME,
                "last_seen": TIME,
            }
            for index, item_id in enumerate(item_ids, start=1)
        ]
        return publish_rows(ITEMS, rows, ds)

    return publish_items


@pytest.fixture
def publish_sequences(publish_rows: Callable[..., Partition]) -> Callable[..., Partition]:
    """Publishes users as (actions before the holdout, actions in it), user-0 first."""

    def publish_sequences(users: list[tuple[list[int], list[int]]], ds: date = DS) -> Partition:
        rows = [
            {
                "user_id": f"user-{number}",
                "item_indices": before + held,
                "event_times": [TIME] * len(before + held),
                "num_train": len(before),
                "num_validation": 0,
                "num_holdout": len(held),
            }
            for number, (before, held) in enumerate(users)
        ]
        return publish_rows(SEQUENCES, rows, ds)

    return publish_sequences


@pytest.fixture
def publish_model(tmp_path: Path) -> PublishModel:
    """Publishes an untrained model of width 8 as a night's checkpoint."""
    from trainer.backbones import build

    def publish_model(
        items: Partition,
        seed: int = 1,
        trained_until: date | None = None,
        split: str = SplitSettings().name,
        **changed: Any,
    ) -> Partition:
        settings = TINY.model_copy(update={"seed": seed} | changed)
        ds = date.fromisoformat(items.manifest.ds)
        sequences = find(tmp_path, SEQUENCES, ds)
        run = draft(tmp_path, CHECKPOINTS, ds, new_token())
        weights = run.path / WEIGHTS_FILE
        save_file(build(settings, items.manifest.rows).state_dict(), weights)
        row = {
            "weights_sha256": file_sha256(weights),
            "backbone": settings.backbone,
            "loss": settings.loss,
            "settings": settings.model_dump_json(),
            "num_items": items.manifest.rows,
            "trained_until": trained_until or ds,
            "best_epoch": 1,
            "validation_ndcg_10": 0.5,
            "items_digest": items.manifest.content_digest,
            "sequences_digest": sequences.manifest.content_digest if sequences else "none",
            "soft_targets_digest": "soft targets",
        }
        run.notes = {"split": split}
        run.write(pa.Table.from_pylist([row], schema=CHECKPOINTS.schema))
        return publish(run, ds, fingerprint="fingerprint")

    return publish_model


@pytest.fixture
def publish_scorecards(tmp_path: Path) -> PublishScorecards:
    """Publishes a night's ndcg@10, baselines at 0.1 for everyone, and its coverage@10 of 0.4."""

    def publish_scorecards(
        checkpoint: Partition,
        candidate: list[float],
        champion: list[float] | None = None,
        against: Input | None = None,
        has_seen: bool | None = False,
    ) -> Partition:
        (row,) = checkpoint.read().to_pylist()
        cards = [("candidate", row["weights_sha256"], candidate)]
        cards += [(name, "", [0.1] * len(candidate)) for name in ("popularity", "item_knn")]
        if against:
            cards.append(("champion", against.digest, champion or candidate))
        ds = date.fromisoformat(checkpoint.manifest.ds)
        run = draft(tmp_path, SCORECARDS, ds, new_token())
        rows = [scorecard(*card) for card in cards]
        rows += [row | COVERAGE for row in rows]
        run.notes |= {"candidate_has_seen_holdout": False, "champion_has_seen_holdout": has_seen}
        run.write(pa.Table.from_pylist(rows, schema=SCORECARDS.schema))
        return publish(run, ds, inputs=[against] if against else [])

    return publish_scorecards


def scorecard(model: str, digest: str, values: list[float]) -> dict[str, Any]:
    return {
        "model": model,
        "model_digest": digest,
        "exclude_seen": True,
        "metric": "ndcg@10",
        "value": sum(values) / len(values),
        "num_users": len(values),
        "holdout_digest": "holdout",
        "user_values": values,
    }


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing in them; migrating takes seconds."""
    from mlflow.store.db import utils
    from mlflow.tracking import MlflowClient

    # MLflow reads its 68 migrations for every address that it meets; they do not change.
    utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def registry(tmp_path: Path, migrated_store: Path) -> Any:
    """The registry under `tmp_path`, empty."""
    from trainer.registry import Registry

    (tmp_path / "mlflow").mkdir()
    shutil.copy(migrated_store, tmp_path / "mlflow" / "mlflow.db")
    return Registry(tmp_path, Settings())


@pytest.fixture
def night_of(
    registry: Any,
    publish_items: PublishModel,
    publish_sequences: PublishModel,
    publish_model: PublishModel,
    publish_scorecards: PublishScorecards,
    make_night: Callable[..., Night],
) -> Callable[..., Night]:
    """Publishes a candidate and its scorecards against the champion of that moment.

    Without a canary, which takes seconds: `test_canary` has it.
    """

    def night_of(
        values: list[float],
        ds: date = DS,
        seed: int | None = None,
        trained_until: date | None = None,
        champion: list[float] | None = None,
    ) -> Night:
        items = publish_items([f"item-{n}" for n in range(12)], ds)
        publish_sequences([([1, 2, 3], [4])] * 4, ds)
        checkpoint = publish_model(items, seed=seed or ds.toordinal(), trained_until=trained_until)
        current = registry.champion()
        against = current.as_input() if current else None
        publish_scorecards(checkpoint, values, champion, against)
        return make_night(
            Settings.model_validate({"gate": {"min_users": 4, "canary_users": 0}}), ds
        )

    return night_of


@pytest.fixture
def days() -> Iterator[int]:
    """How many nights `next_night` and `decided` have published."""
    return itertools.count()


@pytest.fixture
def next_night(night_of: Callable[..., Night], days: Iterator[int]) -> Callable[[], Night]:
    """Publishes one more night whose candidate beats every champion before it."""

    def next_night() -> Night:
        n = next(days)
        values, before = [0.5 + n / 100] * 4, [0.4 + n / 100] * 4
        return night_of(values, DS + timedelta(days=n), champion=before)

    return next_night


@pytest.fixture(scope="session")
def decided_roots() -> dict[int, tuple[Path, Path]]:
    """By number of nights: a root after that many, and where it was made."""
    return {}


@pytest.fixture
def decided(
    registry: Any,
    next_night: Callable[[], Night],
    days: Iterator[int],
    decided_roots: dict[int, tuple[Path, Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[int], Any]:
    """Promotes one after the other of so many first nights; returns the registry.

    MLflow takes half a second for each, so later tests get a copy of what the first has made.
    """
    from trainer import promotion

    def decided(num_nights: int) -> Any:
        if num_nights not in decided_roots:
            for _ in range(num_nights):
                promotion.main(next_night())
            kept = tmp_path_factory.mktemp("decided") / "root"
            decided_roots[num_nights] = shutil.copytree(registry.root, kept), registry.root
            return registry
        kept, made_at = decided_roots[num_nights]
        shutil.copytree(kept, registry.root, dirs_exist_ok=True)
        move_store(registry.root / "mlflow" / "mlflow.db", made_at, registry.root)
        for _ in range(num_nights):
            next(days)
        return registry

    return decided


def move_store(database: Path, before: Path, after: Path) -> None:
    """Says in every text of an MLflow database that artifacts are below another folder."""
    with closing(sqlite3.connect(database)) as connection, connection:
        tables = connection.execute("select name from sqlite_master where type = 'table'")
        for (table,) in tables.fetchall():
            for _, column, kind, *_ in connection.execute(f"pragma table_info({table})").fetchall():
                if kind.startswith(("VARCHAR", "TEXT")):
                    replaced = f'update {table} set "{column}" = replace("{column}", ?, ?)'
                    where = f'where instr("{column}", ?)'
                    known = str(before), str(after), str(before)
                    connection.execute(f"{replaced} {where}", known)


@pytest.fixture
def two_champions(decided: Callable[[int], Any]) -> Any:
    """Version 2 serves, version 1 did before it."""
    return decided(2)
