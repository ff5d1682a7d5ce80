"""A small night of literal tables, its run in MLflow and its page."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.checkpoints import CHECKPOINTS
from schemas.command import Night
from schemas.contract import Contract
from schemas.health import HEALTH
from schemas.interactions import INTERACTIONS
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.promotions import PROMOTIONS
from schemas.publishing import draft, new_token, publish
from schemas.quarantine import QUARANTINE
from schemas.recommendations import RECOMMENDATIONS
from schemas.scorecards import SCORECARDS
from schemas.sequences import SEQUENCES
from schemas.settings import Settings
from schemas.soft_targets import SOFT_TARGETS

DS = date(2017, 10, 31)
NOON = datetime(2017, 10, 31, 12, tzinfo=UTC)
MALICE = "<script>document.title = 'owned'</script><img src=https://example.com/x>"
NAMES = {f"i{n}": f"Product {n}" for n in range(1, 8)} | {"i7": "endless" * 60, "i8": MALICE}
NUM_ITEMS = 9
HITS = {"items": 40, "hit_rate": 0.25, "popular_hit_rate": 0.125}
KIND = {"rows": 9, "mean_dropped_mass": 0.2, "mean_seed_mass": 0.5, "mean_entropy": 1.5}
KIND |= {"coverage": 0.75, "validation": HITS, "validation_new_to_user": HITS}
MODELS = {"candidate": 0.3, "champion": 0.2, "popularity": 0.1, "item_knn": 0.4, "buy_again": 0.5}
RULES = [
    {"rule": "floor", "result": "passed", "value": 0.3, "limit": 0.1, "about": "ndcg@10 is 0.3"},
    {"rule": "coverage", "result": "unclear", "value": None, "limit": 0.1, "about": "missing"},
    {"rule": "new_users", "result": "not judged", "value": 1, "limit": 2, "about": "3 users"},
]

Publish = Callable[..., None]


def publish_table(
    root: Path, contract: Contract, rows: list[dict[str, Any]], ds: date = DS, **notes: Any
) -> None:
    run = draft(root, contract, ds, new_token())
    run.notes |= notes
    run.write(pa.Table.from_pylist(rows, schema=contract.schema))
    publish(run, ds)


@pytest.fixture(name="publish_table", scope="session")
def publish_table_fixture() -> Publish:
    """Publishes literal rows under a root, keywords being notes of the manifest."""
    return publish_table


def publish_day(root: Path, ds: date, num_actions: int) -> None:
    action = {"user_id": "u", "item_id": "i1", "event_type": "", "weight": 1.0}
    start = datetime.combine(ds, datetime.min.time(), UTC)
    rows = [action | {"event_time": start + timedelta(seconds=n)} for n in range(num_actions)]
    reasons = {"null_user": 2, "bad_weight": 1}
    counts = {"events": num_actions + 5, "duplicates": 2, "quarantine": 3}
    publish_table(root, INTERACTIONS, rows, ds, **counts, reasons=reasons)


def health(metric: str, **changed: Any) -> dict[str, Any]:
    row = {"metric": metric, "value": 0.5, "usual": 0.25, "at_least": None, "at_most": 1.0}
    return row | {"verdict": "within", "num_days": 4} | changed


def card(model: str, value: float, seen: bool, metric: str = "ndcg@10") -> dict[str, Any]:
    values = [value - 0.1, value, value + 0.1]
    row = {"model": model, "model_digest": "", "exclude_seen": seen, "metric": metric}
    row |= {"value": value, "num_users": 3, "holdout_digest": "h"}
    return row | {"user_values": [] if metric.startswith("coverage") else values}


def history(user: str, num_actions: int) -> dict[str, Any]:
    indices = [1 + n % NUM_ITEMS for n in range(num_actions)]
    row = {"user_id": user, "item_indices": indices, "event_times": [NOON] * num_actions}
    return row | {"num_train": num_actions, "num_validation": 0, "num_holdout": 0}


def item(index: int) -> dict[str, Any]:
    row = {"item_index": index, "item_id": f"i{index}", "support": 9}
    return row | {"first_seen": NOON, "last_seen": NOON}


def publish_night(root: Path, run_id: str) -> None:
    """All tables of a night, which the gate found inconclusive against champion 1."""
    for days in range(1, 6):
        publish_day(root, DS - timedelta(days=days), 20 + days)
    publish_day(root, DS, 12)
    publish_table(root, QUARANTINE, [])
    watched = [health("drift"), health("freshness", usual=None), health("quarantine_rate")]
    watched += [health("volume", value=12.0, usual=23.0, at_least=15.0, verdict="beyond")]
    publish_table(root, HEALTH, watched)
    publish_table(root, ITEMS, [item(n) for n in range(1, NUM_ITEMS + 1)])
    users = [history(f"u{n:02d}", 29 - 2 * n) for n in range(15)]
    activity = {"most_active_user": "u00", "most_actions_of_a_user": 31}
    publish_table(root, SEQUENCES, users, users_at_max_history=2, **activity)
    edge = {"pair_weight": 1.0, "neighbour_index": 9}
    edges = [edge | {"item_index": n, "weight": 0.01 * n} for n in range(1, 8)]
    frequent = {"most_frequent_item": "i9", "most_actions_of_an_item": 41}
    publish_table(root, ITEM_GRAPH, edges, position_pairs=1234567, **frequent)
    target = {"kind": "item", "item_indices": [1], "masses": [0.5], "dropped_mass": 0.5}
    iterations = [{"residual": r} for r in (1.0, 0.01, 0.00001)]
    targets = {"item": KIND, "user": KIND, "iterations": iterations}
    publish_table(root, SOFT_TARGETS, [target | {"seed_id": "i1"}], **targets)
    checkpoint = {name: "d" * 64 for name in CHECKPOINTS.columns if name.endswith("digest")}
    checkpoint |= {"weights_sha256": "w" * 64, "backbone": "sasrec", "loss": "decoupled"}
    checkpoint |= {"settings": "{}", "num_items": NUM_ITEMS, "trained_until": DS, "best_epoch": 2}
    notes = {"mlflow_run_id": run_id, "provenance": {"commit": "c0ffee" * 6}}
    publish_table(root, CHECKPOINTS, [checkpoint | {"validation_ndcg_10": 0.25}], **notes)
    metrics = ("ndcg@10", "recall@10", "coverage@10", "ndcg@10/new_users")
    cards = [
        card(model, value, seen, metric)
        for model, value in MODELS.items()
        for seen in (True, False)
        for metric in metrics
        if not (seen and model == "buy_again")
    ]
    order = ("model", "exclude_seen", "metric")
    publish_table(root, SCORECARDS, sorted(cards, key=lambda c: [c[name] for name in order]))
    decision = {"decided_at": NOON, "candidate_version": 2, "candidate_digest": "w"}
    decision |= {"champion_version": 1, "outcome": "inconclusive", "verdict": "inconclusive"}
    decision |= {"mode": "enforce", "reason": "coverage: missing", "rules": json.dumps(RULES)}
    publish_table(root, PROMOTIONS, [decision | {"holdout_digest": "h", "scorecards_digest": "s"}])
    advice = {"score": 0.5, "model_version": 1}
    lists = [
        advice | {"user_id": user["user_id"], "rank": rank, "item_id": f"i{10 - rank}"}
        for user in users
        for rank in (1, 2, 3)
    ]
    publish_table(root, RECOMMENDATIONS, lists)
    (root / "catalogue").mkdir()
    names = pa.table({"item_id": list(NAMES), "name": list(NAMES.values())})
    pq.write_table(names, root / "catalogue" / "products.parquet")


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Night:
    """The night, its tables published and its run of two epochs in MLflow, not to be changed."""
    from trainer.tracking import track

    root = tmp_path_factory.mktemp("night")
    (root / "mlflow").mkdir()
    shutil.copy(migrated_store, root / "mlflow" / "mlflow.db")
    settings = Settings()
    run = track(root, settings, "training 2017-10-31", "fingerprint", {})
    for epoch in (1, 2):
        run.log_epoch(epoch, {"train_loss": 3.0 - epoch, "validation_ndcg_10": 0.1 * epoch})
    publish_night(root, run.id)
    return Night(root, DS, settings, (), "", new_token(), 0.0)


@pytest.fixture(scope="session")
def report(night: Night) -> Path:
    """The night's page, made by the stage."""
    from trainer.report import main, path_of

    main(night)
    return path_of(night.root, night.ds)


@pytest.fixture
def empty_night(tmp_path: Path) -> Night:
    """A night that has published nothing yet."""
    return Night(tmp_path, DS, Settings(), (), "", new_token(), 0.0)
